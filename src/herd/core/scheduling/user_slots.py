"""Limits how many slots one user may occupy while other users are active.

Fair turns alone do not keep the others fast: a user whose requests fill every slot makes each of the others wait until
one of them ends, and share a node with many streams. While another user was active in the last minute, a user may
occupy a share of the slots of all nodes with the model. A user who has more requests than that, running or waiting, may
also occupy only that share of each single node: a flood takes no node from the others, while a few requests go where
they end first. Alone, a user may occupy all slots. Only users that a trusted client names are limited.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from herd.core.state.fleet import ModelName, NodeId

ACTIVE_S = 60.0
"""How long a user counts as active after a request has arrived."""


@dataclass(frozen=True, slots=True)
class UserSlotSettings:
    share: float = field(
        default=0.25,
        metadata={
            "env": "FLEET_USER_SLOT_SHARE",
            "min": 0.01,
            "max": 1.0,
            "help": "Largest share of the slots that one named user may occupy while other users are active.",
        },
    )


class UserSlots:
    def __init__(self, settings: UserSlotSettings) -> None:
        self._share = settings.share
        self._newest = ("", 0.0)
        """The user whose request arrived last, and when."""
        self._other = ("", 0.0)
        """The same for the last user before."""
        self.by_node: Counter[tuple[str, NodeId, ModelName]] = Counter()
        """Running requests of each named user."""
        self.by_model: Counter[tuple[str, ModelName]] = Counter()
        self.waiting: Counter[str] = Counter()
        """Waiting requests of each named user, for any model."""

    def record_arrival(self, user: str, now: float) -> None:
        if user != self._newest[0]:
            self._other = self._newest
        self._newest = (user, now)

    def start(self, user: str, node_id: NodeId, model: ModelName) -> None:
        self.by_node[user, node_id, model] += 1
        self.by_model[user, model] += 1

    def end(self, user: str, node_id: NodeId, model: ModelName) -> None:
        _decrement(self.by_node, (user, node_id, model))
        _decrement(self.by_model, (user, model))

    def wait(self, user: str) -> None:
        self.waiting[user] += 1

    def end_wait(self, user: str) -> None:
        _decrement(self.waiting, user)

    def may_start(self, user: str, node_id: NodeId, model: ModelName, slots: Slots, now: float) -> bool:
        """Whether the user may occupy one more of these slots."""
        if self._share >= 1.0 or not self._are_others_active(user, now):
            return True
        of_model, of_model_max = self.by_model[user, model], max(1, int(self._share * slots.of_model))
        if of_model >= of_model_max:
            return False
        has_few = of_model + self.waiting[user] <= of_model_max
        return has_few or self.by_node[user, node_id, model] < max(1, int(self._share * slots.of_node))

    def full(self, node_id: NodeId, model: ModelName, slots: Slots, now: float) -> set[str]:
        """The users that may start nothing more on this node."""
        users = [user for user, of in self.by_model if of == model]
        return {user for user in users if not self.may_start(user, node_id, model, slots, now)}

    def _are_others_active(self, user: str, now: float) -> bool:
        other, at = self._other if user == self._newest[0] else self._newest
        return other != "" and now - at < ACTIVE_S


@dataclass(frozen=True, slots=True)
class Slots:
    """How many requests may run on one node, and on all nodes with the model."""

    of_node: int
    of_model: int


def _decrement(counts: Counter, key: object) -> None:  # type: ignore[type-arg]
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
