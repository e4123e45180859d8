"""Rejects a node that cannot continue an interrupted answer, because its engine or its model differs."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    card = candidate.card
    if not request.continuation_kinds:
        return None
    if card.engine.kind not in request.continuation_kinds:
        return f"its engine ({card.engine.kind}) cannot continue another node's answer"
    if request.digest and card.digest and card.digest != request.digest:
        return f"has a different model with this name ({card.digest[:12]})"
    return None


FILTER = Filter("continuation", check, is_temporary=False)
