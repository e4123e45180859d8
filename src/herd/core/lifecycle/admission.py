"""Decides whether a request that no node can take now may wait, or with which error it is refused."""

from __future__ import annotations

from collections.abc import Sequence

from herd.core.lifecycle.waiting import Waiting
from herd.core.state import refusals
from herd.core.state.capabilities import has_all, missing
from herd.core.state.decision import Decision
from herd.core.state.fleet import Fleet, Liveness, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.nodes.labels import lacking
from herd.core.state.request import FailureKind, Request
from herd.core.state.served_paths import honors_all
from herd.errors import Refusal


def hold_refusal(
    live_request: LiveRequest, fleet: Fleet, waiting: Waiting, now: float, started_at: float
) -> Refusal | None:
    """The refusal, or None if the request may be held.

    `started_at` is when the coordinator started: until all nodes had time to report, an unknown model may still appear.
    """
    request = live_request.request
    is_known = any(fleet.knows(model) for model in live_request.models)
    may_appear = now - started_at < waiting.settings.start_grace_s
    if is_known and (refusal := not_supported(live_request.request, live_request.models, fleet)) is not None:
        return refusal
    if not is_known and not may_appear:
        return last_failure(live_request, fleet) or refusals.unknown_model(live_request.request, fleet)
    if request.labels and is_known and not can_waiting_help(live_request.decision):
        return refusals.not_labelled(request, live_request.decision, _labelled(request, fleet))
    is_wait_useless = is_known and not can_waiting_help(live_request.decision)
    if is_wait_useless or _is_inexpressible(live_request, fleet) or now >= live_request.hold_until:
        return last_failure(live_request, fleet) or refusals.unavailable(live_request.request, live_request.decision)
    return waiting.refusal_for(live_request, now)


def _labelled(request: Request, fleet: Fleet) -> list[Node]:
    """The nodes that have every label which the request requires."""
    return [node for node in fleet if not lacking(request.labels, node.report.all_labels)]


def not_supported(request: Request, models: Sequence[ModelName], fleet: Fleet) -> Refusal | None:
    """The refusal if every copy of every requested model is reported to lack something that the request needs."""
    copies = [
        model_info
        for model in models
        for node in fleet.with_model(model)
        if node.answers_to(request.only_node) and (model_info := node.model_info(model)) is not None
    ]
    lacking = [missing(request, model_info) for model_info in copies]
    if not lacking or not all(lacking):
        return None
    able = {
        name
        for node in fleet
        if node.liveness is not Liveness.OFFLINE
        for name, model_info in node.report.models.items()
        if has_all(request.needs, model_info)
    }
    always = frozenset.intersection(*lacking)
    return refusals.not_supported(request, always or frozenset.union(*lacking), sorted(able))


def last_failure(live_request: LiveRequest, fleet: Fleet) -> Refusal | None:
    """The refusal that follows from its last attempt; None if it was not tried."""
    failure = live_request.attempt.failure if live_request.attempt is not None else None
    if failure is None:
        return None
    refusal = refusals.after_failure(failure)
    if failure.kind is not FailureKind.UNSUPPORTED or not (
        able := able_elsewhere(live_request, fleet, live_request.tried)
    ):
        return refusal
    return refusals.naming_nodes_away(refusal, able)


def _is_inexpressible(live_request: LiveRequest, fleet: Fleet) -> bool:
    """Whether the engines that are here cannot express the request, and no other node is known to be able to.

    Then a wait would delay an error about the request itself, such as a wrong field, by its whole length: a person
    who tries something out expects that error at once. With an able node away, its return within the wait saves the
    request, as it does for every request whose node restarts.
    """
    failure = live_request.attempt.failure if live_request.attempt is not None else None
    if failure is None or failure.kind is not FailureKind.UNSUPPORTED:
        return False
    return not able_elsewhere(live_request, fleet, live_request.tried)


def able_elsewhere(
    live_request: LiveRequest, fleet: Fleet, tried: Sequence[NodeId], may_translate: bool = False
) -> list[NodeId]:
    """The nodes that were not tried and whose engine itself serves the path with the request's special fields.

    `may_translate`: a request without special fields can also be served by a translation.
    An engine of the same kind and version as one that was tried refuses the request too, and so does one whose model
    is reported to lack what the request needs.
    """
    request = live_request.request
    copies = [
        (node.id, model_info.engine)
        for model in live_request.models
        for node in fleet.with_model(model)
        if node.answers_to(request.only_node)
        and (model_info := node.model_info(model)) is not None
        and not (node.id not in tried and missing(request, model_info))
    ]
    refused_by = {(engine.kind, engine.version) for node_id, engine in copies if node_id in tried}
    return [
        node_id
        for node_id, engine in copies
        if node_id not in tried
        and (engine.kind, engine.version) not in refused_by
        and (
            (may_translate and not request.special_fields)
            or honors_all(engine.abilities.paths, request.path, engine.version, request.special_fields)
        )
    ]


def can_waiting_help(decision: Decision | None) -> bool:
    """Whether some node was rejected for a temporary reason."""
    return decision is None or any(rejected.is_temporary for rejected in decision.rejected)


def is_past_deadline(live_request: LiveRequest, now: float) -> bool:
    """Whether the client no longer waits for the answer."""
    deadline_at = live_request.request.deadline_at
    return deadline_at is not None and now >= deadline_at


def answers_too_late(live_request: LiveRequest, decision: Decision, now: float) -> bool:
    """Whether another attempt would send its first byte after the client's deadline."""
    deadline_at, expected_s = live_request.request.deadline_at, decision.scored[0].expected_s
    if is_past_deadline(live_request, now):
        return True
    if deadline_at is None or not expected_s:
        return False
    return now + expected_s["wait"] + expected_s["load"] + expected_s["prefill"] > deadline_at
