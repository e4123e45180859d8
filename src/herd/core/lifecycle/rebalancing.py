"""Finds a queued request that another node can serve sooner, because a slot of that node is free.

How long a node takes is an estimate, and a node may come online after the requests were queued: after a restart of the
coordinator the first node that reports gets all of them. So twice a second the queues are compared with the free slots.
The last request of a queue is decided again: it gains most, and only for it the policy's estimate of the wait at its
present node is exact. To do the same at each end of a request gains about one per cent more, and is off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.decision import Decision
from herd.core.state.fleet import ModelName, Node
from herd.core.state.live_request import LiveRequest
from herd.core.state.queues import Queue, Queues
from herd.core.state.request import RequestId


@dataclass(frozen=True, slots=True)
class RebalancingSettings:
    moves_waiting: bool = field(
        default=False,
        metadata={
            "env": "FLEET_REBALANCE",
            "help": "Move queued requests at once when another node's slot becomes free, not within half a second.",
        },
    )


HasFreeSlot = Callable[[Node, ModelName], bool]
Move = tuple[LiveRequest, Decision]
"""A request that was taken out of its queue, and the decision for another node."""


class Rebalancer:
    """`moves_at_ends`: whether a request may also move at once when another request ends (FLEET_REBALANCE)."""

    def __init__(self, scheduler: Scheduler, waiting: Waiting, moves_at_ends: bool) -> None:
        self.moves_at_ends = moves_at_ends
        self._scheduler = scheduler
        self._waiting = waiting

    def moves_to_free_slots(
        self, live_requests: Mapping[RequestId, LiveRequest], has_free_slot: HasFreeSlot, now: float
    ) -> Iterator[Move]:
        """Each request that should move to a free slot of another node; it must be assigned before the next one."""
        if not self._waiting.has_queued:
            return
        for queue in list(self._waiting.queues):
            while (live_request := self._last_with_choice(queue, live_requests, has_free_slot)) is not None:
                decision = self._decide(live_request, queue, now)
                chosen = self._scheduler.fleet.node(decision.chosen) if decision.chosen is not None else None
                if chosen is None or chosen.id == queue.node_id or not has_free_slot(chosen, queue.model):
                    self._waiting.enqueue(live_request, queue.node_id, queue.model)
                    break
                yield live_request, decision

    def _last_with_choice(
        self, queue: Queue, live_requests: Mapping[RequestId, LiveRequest], has_free_slot: HasFreeSlot
    ) -> LiveRequest | None:
        """The last queued request that may run on another node with a free slot."""
        if not queue.pending:
            return None
        others = self._scheduler.fleet.with_model(queue.model)
        free = [node for node in others if node.id != queue.node_id and has_free_slot(node, queue.model)]
        for request_id in reversed(queue.pending) if free else ():
            live_request = live_requests[request_id]
            only_node = live_request.request.only_node
            if any(node.id not in live_request.tried and node.answers_to(only_node) for node in free):
                return live_request
        return None

    def _decide(self, live_request: LiveRequest, queue: Queue, now: float) -> Decision:
        """Decides again, with the request taken out of its queue."""
        self._waiting.leave(live_request)
        return self._scheduler.decide(live_request.request, queue.model, now, live_request.tried)

    def take_move(self, free: Queue, live_requests: Mapping[RequestId, LiveRequest], now: float) -> Move | None:
        """The request that should move to the slot that became free; None if none should."""
        node = self._scheduler.fleet.node(free.node_id)
        if node is None or free.pending or not self._waiting.has_queued:
            return None
        found = last_of_longest_queue(self._waiting.queues, node)
        if found is None:
            return None
        queue, request_id = found
        live_request = live_requests[request_id]
        decision = self._decide(live_request, queue, now)
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
