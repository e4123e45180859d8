"""Finds out whether a request may start on a node now: whether a slot is free, and no earlier request waits for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from herd.bounded import BoundedDict
from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.user_slots import Slots
from herd.core.state.fleet import Fleet, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import RequestKind

SLOW_START_S = 30.0
"""How long a node that was offline takes to get its full number of requests again."""


COUNTED_FROM_NODES = 32
"""Number of nodes with a model from which on its slots are not summed up for each request."""
MODELS_COUNTED_MAX = 64
"""Models whose count is stored; the one that was not used for longest is dropped first."""


@dataclass(slots=True)
class _Count:
    """The slots of a model on all nodes, as of a position in the list of changes."""

    position: int
    slots: dict[NodeId, int] = field(default_factory=dict)
    starting: set[NodeId] = field(default_factory=set)
    """Nodes whose number of slots still grows after an absence."""
    total: int = 0


class FreeSlots:
    def __init__(self, fleet: Fleet, waiting: Waiting) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._counts = BoundedDict[ModelName, _Count](MODELS_COUNTED_MAX)

    def has_slot(self, node: Node, live_request: LiveRequest, now: float) -> bool:
        """An INFO request needs no slot. Any other request needs a free slot and no queue before it."""
        if live_request.request.kind is RequestKind.INFO:
            return True
        if not live_request.request.user and not self._waiting.user_slots.by_model:
            return self.is_free(node, live_request.model, now)
        return self._has_slot_beside_users(node, live_request, now)

    def _has_slot_beside_users(self, node: Node, live_request: LiveRequest, now: float) -> bool:
        """Whether a slot is free, no earlier request may use the slot, and its user does not occupy too many."""
        model, user = live_request.model, live_request.request.user
        slots, user_slots = self._slots_for_users(node, model, now), self._waiting.user_slots
        queue = self._waiting.queues.of_node(node.id).get(model)
        if queue is not None and len(queue.in_flight) >= slots.of_node:
            return False
        if queue is not None and queue.pending and queue.next(user_slots.full(node.id, model, slots, now)) is not None:
            return False
        return not user or user_slots.may_start(user, node.id, model, slots, now)

    def _slots_for_users(self, node: Node, model: ModelName, now: float) -> Slots:
        return Slots(self.slots(node, model, now), self.of_model(model, now))

    def of_model(self, model: ModelName, now: float) -> int:
        """How many requests may run on all nodes with the model. Of many nodes only those are counted again that
        changed."""
        nodes = self._fleet.with_model(model)
        if len(nodes) < COUNTED_FROM_NODES:
            return sum(self.slots(node, model, now) for node in nodes)
        position, known = self._fleet.changes.position, self._counts.get(model)
        changed = self._fleet.changes.since(known.position) if known is not None else None
        if known is None or changed is None:
            known = self._counts[model] = _Count(position)
            changed = [node.id for node in nodes]
        for node_id in {*changed, *known.starting}:
            self._count(known, node_id, model, now)
        known.position = position
        return known.total

    def _count(self, known: _Count, node_id: NodeId, model: ModelName, now: float) -> None:
        known.total -= known.slots.pop(node_id, 0)
        known.starting.discard(node_id)
        if not self._fleet.models.has(node_id, model):
            return
        node = self._fleet.nodes[node_id]
        slots = known.slots[node_id] = self.slots(node, model, now)
        known.total += slots
        if slots < node.report.models[model].engine.slots:
            known.starting.add(node_id)

    def full_users(self, node: Node, model: ModelName, now: float) -> Collection[str]:
        """Users whose requests must not start here now, because they occupy their share of the slots."""
        user_slots = self._waiting.user_slots
        if not user_slots.by_model:
            return ()
        return user_slots.full(node.id, model, self._slots_for_users(node, model, now), now)

    def is_free(self, node: Node, model: ModelName, now: float) -> bool:
        queue = self._waiting.queues.of_node(node.id).get(model)
        return queue is None or (not queue.pending and len(queue.in_flight) < self.slots(node, model, now))

    def slots(self, node: Node, model: ModelName, now: float) -> int:
        """How many requests may run there now: few at first after an absence, while other nodes have the model too."""
        slots = node.report.models[model].engine.slots
        since_s = now - node.returned_at
        if since_s >= SLOW_START_S or slots == 1 or len(self._fleet.with_model(model)) == 1:
            return slots
        return max(1, int(slots * since_s / SLOW_START_S))
