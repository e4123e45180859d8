"""Computes the position of each waiting request, what it waits for, and its expected wait.

All positions are computed together, when they are displayed: each depends on the requests before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heapreplace

from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.waiting import Waiting
from herd.core.state.fleet import Fleet
from herd.core.state.live_request import LiveRequest, RequestState
from herd.core.state.queues import Queue, Work
from herd.core.state.request import RequestId

REASONS_MAX = 16
"""Most nodes that are listed with the reason why they cannot take a waiting request."""
DISPLAYED_REMAINING_SHARE = 0.5
"""A request that runs longer than expected is displayed as if it ran for another half of its age."""


@dataclass(slots=True)
class QueuePosition:
    """`position` counts from 1 in the order of turns; `expected_wait_s` is None while nothing is known."""

    position: int
    waits_for: str
    expected_wait_s: float | None = None


def compute_positions(
    live_requests: Mapping[RequestId, LiveRequest], waiting: Waiting, fleet: Fleet, latencies: Latencies, now: float
) -> dict[RequestId, QueuePosition]:
    """The positions of all waiting requests, held or queued."""
    found: dict[RequestId, QueuePosition] = {}
    for queue in waiting.queues:
        if queue.pending:
            node = fleet.node(queue.node_id)
            model_info = node.model_info(queue.model) if node is not None else None
            typical_s = latencies.p75_s(queue.node_id, queue.model)
            found.update(_positions_in(queue, model_info.engine.slots if model_info is not None else 0, typical_s, now))
    for held in waiting.holding.sequences():
        found.update(
            {
                request_id: QueuePosition(position, _reasons(live_requests[request_id]))
                for position, request_id in enumerate(held, 1)
            }
        )
    return found


def _positions_in(queue: Queue, slots: int, typical_s: float | None, now: float) -> dict[RequestId, QueuePosition]:
    """Each request waits until it is its turn for one of the slots, which become free one after the other."""
    order = queue.in_order()
    positions = {
        request_id: QueuePosition(position, f"a free slot on {queue.node_id}")
        for position, request_id in enumerate(order, 1)
    }
    running = [left_s(work, typical_s, now) for work in queue.in_flight.values()]
    free_in_s = sorted(end_s for end_s in running if end_s is not None)
    if not slots or len(free_in_s) < len(running):
        return positions
    free_in_s += [0.0] * (slots - len(free_in_s))
    heapify(free_in_s)
    for request_id in order:
        positions[request_id].expected_wait_s = free_in_s[0]
        duration_s = queue.pending[request_id].service_s or typical_s
        if duration_s is None:
            break
        heapreplace(free_in_s, free_in_s[0] + duration_s)
    return positions


def left_s(work: Work, typical_s: float | None, now: float) -> float | None:
    """Expected remaining seconds; None if neither the policy nor earlier requests give an estimate."""
    if not work.service_s and typical_s is None:
        return None
    end_at = work.end_at if work.service_s else work.started_at + (typical_s or 0.0)
    return end_at - now if end_at > now else DISPLAYED_REMAINING_SHARE * (now - work.started_at)


def _reasons(live_request: LiveRequest) -> str:
    assert live_request.state is RequestState.HELD
    rejected = live_request.decision.rejected[:REASONS_MAX] if live_request.decision is not None else []
    return "; ".join(f"{node.node_id}: {node.reason}" for node in rejected) or "a node that has the model"
