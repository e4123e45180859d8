"""Tells how much of a conversation the chosen node has probably cached, for the header X-Fleet-Affinity."""

from __future__ import annotations

from herd.core.state.request import Attempt, Request

MATCHED, PREFIX, NEW = "matched", "prefix", "new"


def affinity(request: Request, attempt: Attempt) -> str:
    """MATCHED for at least half of the prompt, PREFIX for less, NEW for nothing; empty if nothing can be cached."""
    if not request.prefix:
        return ""
    cached_tokens = attempt.expected_cached_tokens
    if not cached_tokens:
        return NEW
    return MATCHED if request.prompt_tokens <= 2 * cached_tokens else PREFIX
