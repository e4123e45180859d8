"""Defines the error answers for requests that are not served, each with the reason and the next step."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from herd.core.state.capabilities import described
from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, Node, NodeId, canonical
from herd.core.state.model_names import INVALID_MODEL_NAME, is_ollama_name, without_local
from herd.core.state.nodes.labels import listed
from herd.core.state.request import Failure, FailureKind, Request
from herd.errors import Refusal

DRAINING = Refusal(503, "draining", "the coordinator is shutting down; try again shortly", retry_after_s=2.0)
FULL = Refusal(503, "queue_full", "too many requests are waiting already; try again shortly", retry_after_s=5.0)
OVER_SHARE = Refusal(
    429, "tenant_share", "too many of your requests are waiting already (FLEET_HOLD_TENANT_SHARE); try again later"
)
INTERNAL_ERROR = Refusal(500, "internal_error", "internal error; the coordinator's log has the details")
RAN_TOO_LONG = Refusal(504, "deadline_passed", "the request's deadline passed while it was being answered")

LOOP_DETECTED = 508
"""The status of a coordinator to which its own request comes back."""
REASONS_MAX = 4
NAMES_MAX = 3


def unknown_model(request: Request, fleet: Fleet) -> Refusal:
    """404, with the most similar names of the fleet, or what the alias stands for. An invalid name is a 400."""
    if request.alias_of:
        message = f"no node has a model for '{request.requested_name}' ({request.alias_of})"
        return Refusal(404, "model_not_found", f"{message}; list the models with: herd models")
    return invalid_name(request, fleet) or unknown_name(request.requested_name or request.model, fleet.model_names)


def invalid_name(request: Request, fleet: Fleet) -> Refusal | None:
    """400 for a name that Ollama calls invalid and no node has, as Ollama's own API answers.

    A client of another API may mean a model of another engine, whose names may be anything, such as a path.
    """
    engines = [engine for node in fleet for engine in node.report.engines]
    is_asked = request.dialect == "ollama" or all(engine.abilities.serves_ollama_api for engine in engines)
    if not engines or not is_asked or is_ollama_name(without_local(request.requested_name or request.model)):
        return None
    return Refusal(400, INVALID_MODEL_NAME, "invalid model name")


def unknown_name(requested: str, names: list[ModelName]) -> Refusal:
    """404 for a name that no node has, with the most similar names of the fleet."""
    near = get_close_matches(canonical(requested), names, n=NAMES_MAX, cutoff=0.3) or names[:NAMES_MAX]
    listed = ", ".join(name.removesuffix(":latest") for name in near)
    hint = f"the fleet has {listed}" if listed else "no node has reported a model yet; see `herd status`"
    return Refusal(404, "model_not_found", f"model '{requested}' not found on any node; {hint}")


def not_supported(request: Request, lacking: frozenset[str], able: list[ModelName]) -> Refusal:
    """400: no copy of the model can do what the request needs. `able` are models of the fleet that can."""
    requested = request.requested_name or request.model
    near = get_close_matches(canonical(requested), able, n=NAMES_MAX, cutoff=0.0)
    listed = ", ".join(name.removesuffix(":latest") for name in near)
    hint = f"the fleet has {listed}" if listed else "the fleet has no model that is known to support this"
    message = f"model '{requested}' does not support {described(lacking)}; {hint}"
    return Refusal(400, "not_supported", message)


def prompt_too_long(prompt_tokens: int, options: EngineOptions, model_info: ModelInfo) -> Refusal:
    """400: the engine has counted the prompt, and must not truncate it."""
    window = options.window_tokens or (model_info.loaded.window_tokens if model_info.loaded is not None else None)
    window_size = (
        f"the context window of {model_info.name} has {window} tokens"
        if window
        else f"the context window of {model_info.name} is smaller"
    )
    most = model_info.context_max_tokens
    if options.may_enlarge or (most is not None and prompt_tokens >= most):
        next_step = "shorten it, or use a model with a larger context window"
    else:
        next_step = (
            "shorten it, or set FLEET_CONTEXT_OVERFLOW=enlarge, which loads the model with a larger context window"
        )
    return Refusal(
        400, "context_length_exceeded", f"the prompt has {prompt_tokens} tokens, and {window_size}: {next_step}"
    )


def unavailable(request: Request, decision: Decision | None) -> Refusal:
    """503: the model exists, but no node could serve it in time."""
    requested = request.requested_name or request.model
    return Refusal(503, "unavailable", f"no node can serve '{requested}' now: {reasons(decision)}", retry_after_s=5.0)


def not_labelled(request: Request, decision: Decision | None, labelled: list[Node]) -> Refusal:
    """404: no node with the required labels has the model."""
    requested, wanted = request.requested_name or request.model, listed(request.labels)
    names = ", ".join(
        node.id + (" (offline)" if node.liveness is Liveness.OFFLINE else "") for node in labelled[:REASONS_MAX]
    )
    where = f"{wanted} is on {names}" if names else f"no node has {wanted}"
    message = f"no node with {wanted} has '{requested}': {where}; {reasons(decision)}; see: herd nodes"
    return Refusal(404, "model_not_found", message)


def poisonous(blocked_s: float, last: Failure | None = None) -> Refusal:
    """502: engines crashed at the same place of this request. `blocked_s` is for how long it is refused.

    `last` is the crash that proved it; None if it was proven before.
    """
    minutes = max(1, round(blocked_s / 60.0))
    when = "before" if last is None else "while processing this request"
    message = (
        f"engines crashed at the same place of this same request {when}, each time without another cause; it is "
        f"refused for {minutes} min: change it, or try again then"
    )
    if last is not None and last.engine_text:
        message = f"{last.engine_text}; {message}"
    return Refusal(502, "poison_suspected", message, retry_after_s=blocked_s)


def queued_too_long(waited_s: float, decision: Decision | None) -> Refusal:
    """503: every slot that the request could use was busy for the whole limit of the wait."""
    where = f" on {decision.chosen}" if decision is not None and decision.chosen is not None else ""
    message = (
        f"the request waited {waited_s:.0f} s for a free slot{where}, which is the limit (FLEET_QUEUE_MAX_SECONDS); "
        "try again later"
    )
    return Refusal(503, "queue_timeout", message)


def too_late(decision: Decision | None) -> Refusal:
    """504: the request's deadline passed while it waited."""
    node_id = decision.chosen if decision is not None else None
    why = f"for a free slot on {node_id}" if node_id is not None else f"for a node: {reasons(decision)}"
    return Refusal(504, "deadline_passed", f"the request's deadline passed while it waited {why}")


def no_time_left(decision: Decision) -> Refusal:
    """504: the node failed, and no other node would have answered before the deadline."""
    message = f"the node failed, and {decision.chosen} would not have answered before the request's deadline"
    return Refusal(504, "deadline_passed", message)


def after_failure(failure: Failure) -> Refusal:
    """The error for the client if no attempt follows the last failure."""
    text = failure.engine_text or failure.description
    if failure.kind is FailureKind.BUSY:
        message = "every node that has the model is busy; try again shortly"
        return Refusal(503, "busy", message, retry_after_s=failure.retry_after_s or 2.0)
    if failure.kind in (FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.STALLED):
        return Refusal(504, "node_timeout", f"the node did not answer in time: {text}")
    if failure.kind is FailureKind.WINDOW:
        message = (
            f"the prompt has {failure.prompt_tokens} tokens, more than any available context window; "
            "shorten it, or see: herd models"
        )
        return Refusal(400, "context_length_exceeded", message)
    if failure.kind is FailureKind.UNSUPPORTED:
        return Refusal(400, "unsupported_field", text)
    if failure.kind is FailureKind.INTERNAL:
        return INTERNAL_ERROR
    if failure.kind is FailureKind.MODEL_CRASHED:
        return Refusal(502, "model_crashed", f"the model stopped on its node: {text}")
    if failure.kind is FailureKind.MODEL_MISSING:
        return Refusal(404, "model_not_found", f"the model is no longer on the node that had it: {text}")
    if failure.status == LOOP_DETECTED:
        return Refusal(LOOP_DETECTED, "loop_detected", text)
    return Refusal(502, "node_lost", f"the node failed: {text}")


def naming_nodes_away(refusal: Refusal, able: list[NodeId]) -> Refusal:
    """The same refusal, with the nodes that could serve the request but cannot take it now."""
    listed = ", ".join(able[:NAMES_MAX])
    return replace(refusal, message=f"{refusal.message}; {listed} could serve it, but cannot take requests now")


def reasons(decision: Decision | None) -> str:
    """Why no node was chosen, in one line."""
    if decision is None:
        return "no node has reported this model yet"
    listed = [f"{node.node_id}: {node.reason}" for node in decision.rejected if node.filter != "has_model"]
    return "; ".join(listed[:REASONS_MAX]) or "no node has reported this model yet"
