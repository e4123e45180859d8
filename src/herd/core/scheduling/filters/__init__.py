"""Defines the contract of a filter: a function that returns why a node cannot serve a request, or None.

There is one filter in each file, which defines `FILTER = Filter("name", rejection_reason)`. Filters
run in the order of their file
names, and the first reason rejects the node. A filter is pure: it reads only the request and the candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from herd.core.state.decision import Candidate
from herd.core.state.request import Request


@dataclass(frozen=True, slots=True)
class Filter:
    """`rejection_reason(request, candidate)` returns a reason with its numbers ("the model needs 42.5 GB, 11.0 GB
    available"), or None.

    `is_temporary`: waiting can help, so a request is held if such a filter rejected some node.
    `is_soft`: the node is only suspected. If no other node is left, it gets one request at a time.
    `is_preference`: another node is better, but if none is left, this one serves the request like any other.
    `is_by_copy`: of the candidate it reads nothing but what is in `copy_kind`: it rejects all equal copies of a model.
    """

    name: str
    rejection_reason: Callable[[Request, Candidate], str | None]
    is_temporary: bool = True
    is_soft: bool = False
    is_preference: bool = False
    is_by_copy: bool = False
