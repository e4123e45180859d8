"""Decides whether a node's engine can write on where another's answer broke off. Passes every request that has not begun."""

from __future__ import annotations

from herd.core.decision import Candidate
from herd.core.filters import Filter
from herd.core.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    card = candidate.card
    if not request.engine_kinds or card.engine.kind in request.engine_kinds:
        return None
    return f"its engine ({card.engine.kind}) cannot write on from another's answer"


FILTER = Filter("continuation", check, may_pass_later=False)
