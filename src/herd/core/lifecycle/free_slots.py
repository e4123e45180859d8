"""Finds out whether a request may start on a node now: whether a slot is free, and no earlier request waits for it."""

from __future__ import annotations

from collections.abc import Collection

from herd.core.lifecycle.waiting import Waiting
from herd.core.scheduling.user_slots import Slots
from herd.core.state.fleet import Fleet, ModelName, Node
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import RequestKind

SLOW_START_S = 30.0
"""How long a node that was offline takes to get its full number of requests again."""


class FreeSlots:
    def __init__(self, fleet: Fleet, waiting: Waiting) -> None:
        self._fleet = fleet
        self._waiting = waiting

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
        if queue is not None and queue.next(user_slots.full(node.id, model, slots, now)) is not None:
            return False
        return not user or user_slots.may_start(user, node.id, model, slots, now)

    def _slots_for_users(self, node: Node, model: ModelName, now: float) -> Slots:
        nodes = self._fleet.with_model(model)
        return Slots(self.slots(node, model, now), sum(self.slots(other, model, now) for other in nodes))

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
