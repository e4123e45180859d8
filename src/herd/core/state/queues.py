"""Stores which requests run and which wait, for each node and model.

The number of running requests is the size of a map, so it cannot drift. Among the requests that wait for one node,
tenants take turns by the seconds that their requests occupy the node: the expected ones until they have ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from herd.core.state.changed_nodes import ChangedNodes
from herd.core.state.fairness import TURN, FairOrder, Shares
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Request, RequestId


@dataclass(slots=True, eq=False)
class Work:
    """Expected times of a request on its node; 0 if the policy makes no predictions."""

    service_s: float = 0.0
    started_at: float = 0.0
    end_at: float = 0.0
    ready_at: float = 0.0
    """When its model should be loaded."""
    prefill_s: float = 0.0
    """Expected prefill time, during which no other prompt of the model is processed; 0 after the first token."""
    charged_s: float = 0.0
    """The expected seconds that its tenant was charged; 0 if it was charged a turn, or nothing waited."""


@dataclass(slots=True, eq=False)
class Queue:
    """One model on one node: `in_flight` requests were sent, `pending` requests wait in the coordinator, in order of
    arrival."""

    node_id: NodeId
    model: ModelName
    in_flight: dict[RequestId, Work] = field(default_factory=dict)
    pending: OrderedDict[RequestId, Work] = field(default_factory=OrderedDict)
    starts: int = 0
    """Attempts started since this queue was last empty."""
    order: FairOrder | None = None
    """The order of turns among `pending`; created when the first request has to wait."""
    changes: ChangedNodes = field(default_factory=ChangedNodes)
    """Where the queue notes that its requests changed."""

    def start(self, request: Request, work: Work) -> None:
        """Lets the request occupy a slot, and charges its tenant for the expected time."""
        self.in_flight[request.id] = work
        self.changes.note(self.node_id)
        if self.order is not None:
            work.charged_s = work.service_s
            self.order.shares.charge(request.tenant, work.service_s or TURN, request.member)

    def enqueue(self, request: Request, work: Work) -> int:
        """Queues the request for a slot, and returns its position from 1."""
        if self.order is None:
            self.order = FairOrder(Shares())
        self.pending[request.id] = work
        self.changes.note(self.node_id)
        return self.order.add(request.id, request.tenant, request.member)

    def next(self, without: Collection[str] = ()) -> RequestId | None:
        """The request that gets the next slot; members `without` turns are left out."""
        return self.order.first(without) if self.order is not None else None

    def pending_before_s(self, request: Request) -> float:
        """Expected seconds of the waiting requests that get a slot before this one: all, or those that have turns
        before its user."""
        pending_s = sum(work.service_s for work in self.pending.values())
        if not request.user or self.order is None or not self.pending:
            return pending_s
        return pending_s * self.order.ahead(request.tenant, request.member) / len(self.pending)

    def in_order(self) -> list[RequestId]:
        """The waiting requests in the order in which they will get a slot."""
        if self.order is None:
            return []
        return list(self.order.sequence(lambda request_id: self.pending[request_id].service_s or TURN))

    @property
    def is_idle(self) -> bool:
        return not self.in_flight and not self.pending

    def leave(self, request: Request, now: float | None) -> None:
        """Removes the request. If it was running until `now`, its tenant is charged for the time it really took."""
        self.changes.note(self.node_id)
        work = self.in_flight.pop(request.id, None)
        if work is not None and work.charged_s and self.order is not None and now is not None:
            difference_s = now - work.started_at - work.charged_s
            self.order.shares.correct(request.tenant, difference_s, request.member)
        if self.pending.pop(request.id, None) is not None and self.order is not None:
            self.order.remove(request.id)


class Queues:
    """All queues with requests. An idle queue is removed, so the map is bounded by the number of live requests."""

    def __init__(self) -> None:
        self.by_node: dict[NodeId, dict[ModelName, Queue]] = {}
        self.changes = ChangedNodes()
        """Nodes whose queues changed."""

    def queue(self, node_id: NodeId, model: ModelName) -> Queue:
        of_node = self.by_node.setdefault(node_id, {})
        found = of_node.get(model)
        if found is None:
            found = of_node[model] = Queue(node_id, model, changes=self.changes)
        return found

    def of_node(self, node_id: NodeId) -> dict[ModelName, Queue]:
        return self.by_node.get(node_id) or {}

    def remove_if_idle(self, queue: Queue) -> None:
        """Removes the queue if it has become idle."""
        of_node = self.by_node.get(queue.node_id)
        if of_node is None or not queue.is_idle:
            return
        of_node.pop(queue.model, None)
        if not of_node:
            del self.by_node[queue.node_id]

    def __iter__(self) -> Iterator[Queue]:
        for of_node in self.by_node.values():
            yield from of_node.values()
