"""Decides how long an engine may be silent in the middle of an answer although it works.

Engines send nothing while they build a tool call, fill a schema, or think without showing it. How long that lasts
follows from the number of tokens that may come and from the speed that was learned for the model on the node.
"""

from __future__ import annotations

import math

from herd.core.estimates.hardware_priors import Speed
from herd.core.state.capabilities import THINKING
from herd.core.state.fleet import ModelInfo
from herd.core.state.request import Request, RequestKind

TOKENS_ASSUMED = 8192
"""Output tokens of a request without a limit: a long file in the argument of a tool call."""

_FUNCTIONS = "functions"
"""The older field of OpenAI's chat for tools."""

SLACK = 3.0
"""A computer that does other work too, or throttles, is slower than what was learned."""


def silence_s(
    request: Request, model_info: ModelInfo, speed: Speed, output_tokens_max: int | None, silence_max_s: float
) -> float:
    """Seconds without data that are no sign of a fault; 0 if every token of the answer is sent at once."""
    if not _may_be_silent(request, model_info):
        return 0.0
    loaded = model_info.loaded
    window_tokens = (loaded.window_tokens if loaded is not None else None) or model_info.context_max_tokens or math.inf
    tokens = min(output_tokens_max or TOKENS_ASSUMED, window_tokens)
    return min(silence_max_s, SLACK * tokens * speed.step_with_s(model_info.engine.slots))


def _may_be_silent(request: Request, model_info: ModelInfo) -> bool:
    if request.kind not in (RequestKind.CHAT, RequestKind.GENERATE):
        return False
    thinks = request.wants_thinking or request.may_think_unseen or THINKING in model_info.capabilities
    has_tools = "tools" in request.needs or _FUNCTIONS in request.special_fields
    return has_tools or request.has_format or thinks
