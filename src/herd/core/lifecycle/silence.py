"""Decides how long an engine may be silent in the middle of an answer although it works.

Engines send nothing while they build a tool call, fill a schema, or think without showing it. How long that lasts
follows from the number of tokens that may come and from the speed that was learned for the model on the node.
"""

from __future__ import annotations

import math

from herd.core.estimates.hardware_priors import Speed
from herd.core.state.capabilities import THINKING
from herd.core.state.fleet import ModelInfo
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import Request, RequestKind

TOKENS_ASSUMED = 8192
"""Output tokens of a request without a limit: a long file in the argument of a tool call."""

_FUNCTIONS = "functions"
"""The older field of OpenAI's chat for tools."""

_SEVERAL_ANSWERS = frozenset(("n", "best_of", "n_cmpl"))
"""Fields that ask for several answers at once, each with its own limit."""

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


def whole_answer_s(
    live_request: LiveRequest, model_info: ModelInfo, speed: Speed, output_tokens_max: int | None
) -> float:
    """The longest that an engine can write at an answer without streaming; infinite if nothing limits it.

    All of such an answer arrives at its end, so a runner that stands still behind a server that answers shows only in
    an answer that is overdue. What was learned about the length of answers says nothing about a single one, so only the
    request's own limit counts, at the speed that every stream has while all slots are busy. Only the first attempt is
    left earlier than others: if the estimate was wrong, the answer takes one attempt more, and none is refused.
    """
    request = live_request.request
    is_bounded = request.kind in (RequestKind.CHAT, RequestKind.GENERATE) and bool(output_tokens_max)
    if not is_bounded or live_request.attempts > 1 or _SEVERAL_ANSWERS.intersection(request.special_fields):
        return math.inf
    return (output_tokens_max or 0) * speed.step_with_s(model_info.engine.slots)
