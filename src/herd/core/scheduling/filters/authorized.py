"""Rejects a node whose engine answered 401 or 403 within the last minute."""

from __future__ import annotations

from herd.core.scheduling.filters import Filter
from herd.core.state.decision import Candidate
from herd.core.state.request import Request


def rejection_reason(request: Request, candidate: Candidate) -> str | None:
    refused = candidate.node.unauthorized_until
    if not refused:
        return None
    wait_s = refused.get(candidate.model_info.engine.url, 0.0) - candidate.at
    if wait_s > 0.0:
        return f"its engine answered 401 or 403: check the engine's API key or allow-list; next try in {wait_s:.0f} s"
    return None


FILTER = Filter("authorized", rejection_reason)
