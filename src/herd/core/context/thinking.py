"""How many tokens a model that thinks may write, so that its thoughts leave room for the answer. Knows no dialect and no engine's words.

A client's limit is meant for the answer it sees. An engine counts the thoughts too: with a limit of 50 a thinking model often ends in the
middle of its thoughts, and the answer is empty.
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


def budget_tokens(request: Request, card: ModelInfo, settings: ThinkingSettings) -> int | None:
    """The limit to say in the place of the client's, in tokens; None where the client's stands."""
    asked = request.output_tokens_max
    if (
        not asked
        or request.is_thinking_in_limit
        or settings.overhead <= 1.0
        or request.kind not in (RequestKind.CHAT, RequestKind.GENERATE)
    ):
        return None
    if not card.engine.abilities.takes_window or "thinking" not in card.capabilities:
        return None
    return max(math.ceil(asked * settings.overhead), settings.least_tokens)
