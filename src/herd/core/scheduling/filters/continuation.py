"""Decides whether a node can write on where another's answer broke off: its engine is able to, and its model is the same. Passes every
request that has not begun."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    card = candidate.card
    if not request.engine_kinds:
        return None
    if card.engine.kind not in request.engine_kinds:
        return f"its engine ({card.engine.kind}) cannot write on from another's answer"
    if request.digest and card.digest and card.digest != request.digest:
        return f"it has another model under this name ({card.digest[:12]})"
    return None


FILTER = Filter("continuation", check, may_pass_later=False)
