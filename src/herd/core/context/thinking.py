"""Raises the output token limit for a thinking model, so that its reasoning leaves room for the answer.

A client's limit is meant for the visible answer, but an engine counts reasoning tokens too: with a limit of 50 a
thinking model often ends while it is still reasoning, and the answer is empty. The coordinator counts the visible
tokens and ends the answer at the client's limit (`coordinator/proxy/visible_limit.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from herd.core.state.fleet import ModelInfo
from herd.core.state.request import Request, RequestKind


@dataclass(frozen=True, slots=True)
class ThinkingSettings:
    overhead: float = field(
        default=4.0,
        metadata={
            "env": "FLEET_THINKING_OVERHEAD",
            "min": 1.0,
            "max": 100.0,
            "help": "Factor applied to the client's token limit for a thinking model; 1 leaves the limit unchanged.",
        },
    )
    least_tokens: int = field(
        default=1024,
        metadata={
            "env": "FLEET_THINKING_MIN_PREDICT",
            "min": 0,
            "max": 1_000_000,
            "help": "Minimum token limit for a thinking model, when the client's limit is raised.",
        },
    )


def budget_tokens(request: Request, model_info: ModelInfo, settings: ThinkingSettings) -> int | None:
    """The limit in tokens that replaces the client's; None if the client's limit is used."""
    limit = request.output_tokens_max
    if (
        not limit
        or request.is_thinking_in_limit
        or settings.overhead <= 1.0
        or request.kind not in (RequestKind.CHAT, RequestKind.GENERATE)
    ):
        return None
    if not model_info.engine.abilities.takes_window or "thinking" not in model_info.capabilities:
        return None
    return max(math.ceil(limit * settings.overhead), settings.least_tokens)
