"""Decides whether a request that names its node may go elsewhere: it may not. Passes every request that names none."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    if not request.only_node or candidate.node.id == request.only_node:
        return None
    return f"the request asks for {request.only_node} alone"


FILTER = Filter("asked_node", check, may_pass_later=False)
