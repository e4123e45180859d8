"""Who runs and who waits, per node and model. Counts; chooses nobody and knows no time.

In-flight numbers are the sizes of these maps, so they cannot drift: a request is in exactly one place. Among those that wait
for one node, tenants take turns by the seconds that their requests are expected to occupy it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from herd.core.state.fairness import TURN, FairOrder, Shares
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import RequestId


@dataclass(slots=True, eq=False)
class Work:
    """What a request is expected to take on its node, once started; zero where no policy predicts."""

    service_s: float = 0.0
    started_at: float = 0.0
    end_at: float = 0.0
    ready_at: float = 0.0
    """When its model should be in memory."""
    prefill_s: float = 0.0
    """Its prompt takes so long, and until then keeps others of its model from being read; zero once it writes."""


@dataclass(slots=True, eq=False)
class Queue:
    """One model on one node: `in_flight` were sent, `pending` wait in the coordinator, listed as they came."""

    node_id: NodeId
    model: ModelName
    in_flight: dict[RequestId, Work] = field(default_factory=dict)
    pending: OrderedDict[RequestId, Work] = field(default_factory=OrderedDict)
    starts: int = 0
    """Attempts started while this queue held anybody."""
    order: FairOrder | None = None
    """Whose turn it is among `pending`; made when the first has to wait, and gone when nobody is here any more."""

    def run(self, request_id: RequestId, tenant: str, work: Work) -> None:
        """It occupies a slot from now on, and its tenant has had a turn."""
        self.in_flight[request_id] = work
        if self.order is not None:
            self.order.shares.charge(tenant, work.service_s or TURN)

    def enqueue(self, request_id: RequestId, tenant: str, work: Work) -> int:
        """It waits for a slot; its position from 1."""
        if self.order is None:
            self.order = FairOrder(Shares())
        self.pending[request_id] = work
        return self.order.add(request_id, tenant)

    def next(self) -> RequestId | None:
        """Who gets the next slot."""
        return self.order.first() if self.order is not None else None

    def in_order(self) -> list[RequestId]:
        """Those who wait, in the order in which they will get a slot."""
        if self.order is None:
            return []
        return list(self.order.sequence(lambda request_id: self.pending[request_id].service_s or TURN))

    @property
    def is_idle(self) -> bool:
        return not self.in_flight and not self.pending

    def leave(self, request_id: RequestId) -> None:
        self.in_flight.pop(request_id, None)
        if self.pending.pop(request_id, None) is not None and self.order is not None:
            self.order.remove(request_id)


class Queues:
    """All queues that hold somebody. An idle queue is dropped, so the map is bounded by what is live."""

    def __init__(self) -> None:
        self.by_node: dict[NodeId, dict[ModelName, Queue]] = {}

    def queue(self, node_id: NodeId, model: ModelName) -> Queue:
        of_node = self.by_node.setdefault(node_id, {})
        found = of_node.get(model)
        if found is None:
            found = of_node[model] = Queue(node_id, model)
        return found

    def of_node(self, node_id: NodeId) -> dict[ModelName, Queue]:
        return self.by_node.get(node_id) or {}

    def tidy(self, queue: Queue) -> None:
        """Drops a queue that has become idle."""
        of_node = self.by_node.get(queue.node_id)
        if of_node is None or not queue.is_idle:
            return
        of_node.pop(queue.model, None)
        if not of_node:
            del self.by_node[queue.node_id]

    def __iter__(self) -> Iterator[Queue]:
        for of_node in self.by_node.values():
            yield from of_node.values()
