"""Whether a request that no node can take now may wait, or what it is told instead. Chooses no node and keeps no queue."""

from __future__ import annotations

from herd.core.lifecycle.waiting import Waiting
from herd.core.state import refusals
from herd.core.state.decision import Decision
from herd.core.state.fleet import Fleet
from herd.core.state.live_request import LiveRequest
from herd.errors import Refusal

NEVER_PASSES = ("tried", "has_model", "continuation", "asked_node")
"""Reasons that no waiting removes."""


def why_not_hold(live: LiveRequest, fleet: Fleet, waiting: Waiting, at: float, started_at: float) -> Refusal | None:
    """None when it may be held. `started_at` is when the coordinator began: until all nodes had time to report, what is
    unknown may still appear."""
    is_known = any(fleet.knows(model) for model in live.models)
    may_appear = at - started_at < waiting.settings.start_grace_s
    if not is_known and not may_appear:
        return last_failure(live) or refusals.unknown_model(live.request, fleet.model_names)
    if (is_known and not may_pass_later(live.decision)) or at >= live.hold_until:
        return last_failure(live) or refusals.nobody_now(live.request, live.decision)
    return waiting.refusal_for(live, at)


def last_failure(live: LiveRequest) -> Refusal | None:
    """What its last attempt failed of, as far as it was tried."""
    failure = live.attempt.failure if live.attempt is not None else None
    return refusals.after_failure(failure) if failure is not None else None


def may_pass_later(decision: Decision | None) -> bool:
    """Whether waiting can help: some node was rejected for a reason that may go away."""
    return decision is None or any(one.filter not in NEVER_PASSES for one in decision.rejected)
