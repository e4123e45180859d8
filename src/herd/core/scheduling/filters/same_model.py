"""Decides whether a node has the model that a conversation began with, where one name means several. Passes where nobody else is left."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def check(request: Request, candidate: Candidate) -> str | None:
    digest = candidate.card.digest
    if not request.digest or not digest or digest == request.digest:
        return None
    return f"it has another model under this name ({digest[:12]}) than the one that this conversation began with"


FILTER = Filter("same_model", check, is_soft=True)
