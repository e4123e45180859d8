"""Finds a queued request that another node can serve sooner, when a slot of that node becomes free.

How long a node takes is an estimate; when the node finishes early, a request that waits for another node may move
there. The last request of the longest queue is decided again: it gains most, and only for it the policy's estimate of
the wait at its present node is exact. The measured gain is about one per cent, so this is off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.decision import Decision
from herd.core.state.fleet import Node
from herd.core.state.live_request import LiveRequest
from herd.core.state.queues import Queue, Queues
from herd.core.state.request import RequestId


@dataclass(frozen=True, slots=True)
class RebalancingSettings:
    moves_waiting: bool = field(
        default=False,
        metadata={"env": "FLEET_REBALANCE", "help": "Move a queued request when a slot becomes free on another node."},
    )


class Rebalancer:
    def __init__(self, scheduler: Scheduler, waiting: Waiting) -> None:
        self._scheduler = scheduler
        self._waiting = waiting

    def take_move(
        self, free: Queue, live_requests: Mapping[RequestId, LiveRequest], now: float
    ) -> tuple[LiveRequest, Decision] | None:
        """The request to move, already taken out of its queue, and where it goes; None if no request should move."""
        node = self._scheduler.fleet.node(free.node_id)
        if node is None or free.pending or not self._waiting.has_queued:
            return None
        found = last_of_longest_queue(self._waiting.queues, node)
        if found is None:
            return None
        queue, request_id = found
        live_request = live_requests[request_id]
        self._waiting.leave(live_request)
        decision = self._scheduler.decide(live_request.request, queue.model, now, live_request.tried)
        if decision.chosen is None or decision.chosen == queue.node_id:
            self._waiting.enqueue(live_request, queue.node_id, queue.model)
            return None
        return live_request, decision


def last_of_longest_queue(queues: Queues, node: Node) -> tuple[Queue, RequestId] | None:
    """The last request of the queue with the longest expected time, among the queues whose model this node has in
    memory."""
    longest: Queue | None = None
    longest_s = -1.0
    for queue in queues:
        if queue.pending and queue.node_id != node.id and queue.model in node.loaded:
            queue_s = sum(work.service_s for work in queue.pending.values()) / (len(queue.in_flight) or 1)
            if queue_s > longest_s:
                longest, longest_s = queue, queue_s
    return (longest, next(reversed(longest.pending))) if longest is not None else None
