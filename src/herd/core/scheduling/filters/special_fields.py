"""Prefers nodes whose engine itself honors the request's special fields, such as several answers (`n`)."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request
from herd.core.state.served_paths import honors_all


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    """Without another node, the fields are left out or the engine refuses them, as the engine's own API does."""
    if not request.special_fields:
        return None
    engine = candidate.model_info.engine
    if honors_all(engine.abilities.paths, request.path, engine.version, request.special_fields):
        return None
    return f"its engine does not honor {', '.join(request.special_fields)}, and another node's does"


FILTER = Filter("special_fields", rejection_reason, is_temporary=False, is_preference=True, is_by_copy=True)
