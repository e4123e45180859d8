"""Decides whether a request that no node can take now may wait, or with which error it is refused."""

from __future__ import annotations

from herd.core.lifecycle.waiting import Waiting
from herd.core.state import refusals
from herd.core.state.decision import Decision
from herd.core.state.fleet import Fleet
from herd.core.state.live_request import LiveRequest
from herd.errors import Refusal


def hold_refusal(
    live_request: LiveRequest, fleet: Fleet, waiting: Waiting, now: float, started_at: float
) -> Refusal | None:
    """The refusal, or None if the request may be held.

    `started_at` is when the coordinator started: until all nodes had time to report, an unknown model may still appear.
    """
    is_known = any(fleet.knows(model) for model in live_request.models)
    may_appear = now - started_at < waiting.settings.start_grace_s
    if not is_known and not may_appear:
        return last_failure(live_request) or refusals.unknown_model(live_request.request, fleet.model_names)
    if (is_known and not can_waiting_help(live_request.decision)) or now >= live_request.hold_until:
        return last_failure(live_request) or refusals.unavailable(live_request.request, live_request.decision)
    return waiting.refusal_for(live_request, now)


def last_failure(live_request: LiveRequest) -> Refusal | None:
    """The refusal that follows from its last attempt; None if it was not tried."""
    failure = live_request.attempt.failure if live_request.attempt is not None else None
    return refusals.after_failure(failure) if failure is not None else None


def can_waiting_help(decision: Decision | None) -> bool:
    """Whether some node was rejected for a temporary reason."""
    return decision is None or any(rejected.is_temporary for rejected in decision.rejected)
