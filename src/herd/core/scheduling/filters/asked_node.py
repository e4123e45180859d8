"""Rejects every node but the one that the request names, if it names one; a machine's name means all of its engines."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    if not request.only_node or candidate.node.answers_to(request.only_node):
        return None
    return f"the request is for {request.only_node} only"


FILTER = Filter("asked_node", rejection_reason, is_temporary=False)
