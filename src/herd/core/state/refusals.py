"""What a client is told when its request is not served, in plain words with the next step. Decides no such thing itself."""

from __future__ import annotations

from difflib import get_close_matches

from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo, ModelName, canonical
from herd.core.state.request import Failure, FailureKind, Request
from herd.errors import Refusal

DRAINING = Refusal(503, "draining", "the coordinator is shutting down, try again in a moment", retry_after_s=2.0)
FULL = Refusal(503, "queue_full", "too many requests are waiting already, try again shortly", retry_after_s=5.0)
OVER_SHARE = Refusal(
    429,
    "tenant_share",
    "too many requests of yours are waiting already (FLEET_HOLD_TENANT_SHARE), try again when some have been answered",
)
POISON = Refusal(
    502, "poison_suspected", "two nodes broke off at this request before a first byte; it is not tried on a third"
)
POISON_AGAIN = Refusal(
    502,
    "poison_suspected",
    "two nodes broke off at this very request within the last ten minutes; change it, or try again later",
)
RAN_TOO_LONG = Refusal(504, "deadline_passed", "the request's deadline passed while it was being answered")

REASONS_TOLD_MAX = 4
NAMES_TOLD_MAX = 3


def unknown_model(request: Request, names: list[ModelName]) -> Refusal:
    """404, with the fleet's nearest names."""
    asked = request.requested_name or request.model
    near = get_close_matches(canonical(asked), names, n=NAMES_TOLD_MAX, cutoff=0.3) or names[:NAMES_TOLD_MAX]
    told = ", ".join(name.removesuffix(":latest") for name in near)
    hint = f"the fleet has {told}" if told else "no node has reported a model yet; see `herd status`"
    return Refusal(404, "model_not_found", f"model '{asked}' not found on any node; {hint}")


def prompt_too_long(prompt_tokens: int, pin: EngineOptions, card: ModelInfo) -> Refusal:
    """400: the engine has counted it, and was told not to cut it."""
    window = pin.window_tokens or (card.loaded.window_tokens if card.loaded is not None else None)
    holds = f"the window of {card.name} holds {window}" if window else f"the window of {card.name} holds fewer"
    most = card.context_max_tokens
    if pin.may_enlarge or (most is not None and prompt_tokens >= most):
        step = "shorten it, or ask a model with a larger window"
    else:
        step = "shorten it, or set FLEET_CONTEXT_OVERFLOW=enlarge, which loads the model with a larger window"
    return Refusal(400, "context_length_exceeded", f"the prompt has {prompt_tokens} tokens, and {holds}: {step}")


def nobody_now(request: Request, decision: Decision | None) -> Refusal:
    """503: the model exists, but waiting did not help."""
    asked = request.requested_name or request.model
    return Refusal(503, "unavailable", f"no node can serve '{asked}' now: {reasons(decision)}", retry_after_s=5.0)


def too_late(decision: Decision | None) -> Refusal:
    """504: its own deadline passed while it waited."""
    place = decision.chosen if decision is not None else None
    why = f"for a free slot on {place}" if place is not None else f"for a node: {reasons(decision)}"
    return Refusal(504, "deadline_passed", f"the request's deadline passed while it waited {why}")


def no_time_left(decision: Decision) -> Refusal:
    """504: its node failed, and the next could not begin before its deadline."""
    message = f"its node failed, and {decision.chosen} could not begin before the request's deadline"
    return Refusal(504, "deadline_passed", message)


def after_failure(failure: Failure) -> Refusal:
    """What the last failure means to the client when no further attempt is made."""
    told = failure.engine_text or failure.description
    if failure.kind is FailureKind.BUSY:
        message = "every node that has the model is busy, try again shortly"
        return Refusal(503, "busy", message, retry_after_s=failure.retry_after_s or 2.0)
    if failure.kind in (FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.STALLED):
        return Refusal(504, "node_timeout", f"the node did not answer in time: {told}")
    if failure.kind is FailureKind.WINDOW:
        message = f"the prompt has {failure.prompt_tokens} tokens, more than any window that could be had; shorten it, or see: herd models"
        return Refusal(400, "context_length_exceeded", message)
    if failure.kind is FailureKind.MODEL_MISSING:
        return Refusal(404, "model_not_found", f"the model is no longer on the node that had it: {told}")
    return Refusal(502, "node_lost", f"the node failed: {told}")


def reasons(decision: Decision | None) -> str:
    """Why no node was chosen, in one line."""
    if decision is None:
        return "no node has reported it yet"
    told = [f"{r.node_id}: {r.reason}" for r in decision.rejected if r.filter != "has_model"]
    return "; ".join(told[:REASONS_TOLD_MAX]) or "no node has reported it yet"
