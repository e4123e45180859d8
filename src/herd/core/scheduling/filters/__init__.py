"""The contract of a filter: a function that says why a node cannot serve a request, or None. One filter a file.

The first reason ends the node's candidacy; filters run in the order of their file names. A filter is pure and
reads only the request and the candidate. It defines `FILTER = Filter("name", check)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from herd.core.state.decision import Candidate
from herd.core.state.request import Request


@dataclass(frozen=True, slots=True)
class Filter:
    """`check(request, candidate)` returns a reason with its numbers ("needs 42.5 GB, 11.0 GB free"), or None.

    `may_pass_later` tells whether waiting can help: a request is held for a node that is only rejected by such filters.
    `is_soft` ones are suspicions of ours: when they would leave nobody, one request at a time is sent all the same.
    """

    name: str
    check: Callable[[Request, Candidate], str | None]
    may_pass_later: bool = True
    is_soft: bool = False
