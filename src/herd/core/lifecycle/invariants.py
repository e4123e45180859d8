"""Checks what must always hold: each request is in one place, none waits while a node could take it, none is overdue.

The dispatcher checks the cheap ones in its audit; tests and the simulator check all of them after every event.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from herd.core.lifecycle.free_slots import FreeSlots
from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.live_request import LiveRequest, RequestState
from herd.core.state.request import RequestId

OVERDUE_MAX_S = 60.0
"""A dispatched request that is this far past its time limit was missed by the sweep: a bug."""


def inconsistencies(
    live_requests: dict[RequestId, LiveRequest], waiting: Waiting, retrying: Collection[RequestId]
) -> list[str]:
    """Violations of what must hold after every event."""
    found = waiting.problems(live_requests)
    running = {r for r, live_request in live_requests.items() if live_request.is_running and live_request.attempts > 1}
    if set(retrying) != running:
        found.append("the set of running retries is wrong")
    return found


def overdue(live_requests: Mapping[RequestId, LiveRequest], now: float) -> Iterator[str]:
    """Attempts that should have timed out long ago, which the sweep has missed."""
    for live_request in live_requests.values():
        overdue_s = now - live_request.first_byte_deadline_at
        if live_request.state is RequestState.DISPATCHED and overdue_s > OVERDUE_MAX_S:
            yield f"request {live_request.request.id} should have timed out {overdue_s:.0f} s ago"


def held_needlessly(
    live_requests: Mapping[RequestId, LiveRequest],
    waiting: Waiting,
    scheduler: Scheduler,
    free_slots: FreeSlots,
    now: float,
) -> Iterator[tuple[RequestId, str]]:
    """Held requests that a node could take, with the node. It may be seen between two tries of held requests.

    A retry beyond the budget may wait for a slot, but not while one is free. A node that was offline gets its slots
    again one by one. A fallback answers only if no node can take the requested model, which a busy node can.
    """
    for request_id in waiting.holding:
        live_request = live_requests[request_id]
        for model in live_request.models:
            decision = scheduler.decide_among_all(live_request.request, model, now, live_request.tried)
            if decision.chosen is None or decision.is_panic:
                continue
            free = [
                scored.node_id
                for scored in decision.scored
                if (candidate := scored.candidate) is None
                or candidate.depth < free_slots.slots(candidate.node, model, now)
            ]
            if free or not live_request.needs_budget:
                yield request_id, free[0] if free else decision.chosen
            break
