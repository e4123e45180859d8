"""Stores the held requests, which wait because no node can take them now, in the order in which they are tried again.

Requests that could run under the same conditions form a class. Only the first request of each class is tried again, so
a thousand held requests cost as many decisions as there are classes. The first request is chosen fairly between
tenants, by turns: how long a request takes is not known before it has a node.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from herd.core.state.fairness import TURN, FairOrder, Shares
from herd.core.state.request import Request, RequestId


@dataclass(frozen=True, slots=True)
class HoldingSettings:
    wait_max_s: float = field(
        default=30.0,
        metadata={
            "env": "FLEET_HOLD_MAX_SECONDS",
            "help": "Seconds a request waits for a node before it is answered with 503.",
        },
    )
    queue_max_s: float = field(
        default=600.0,
        metadata={
            "env": "FLEET_QUEUE_MAX_SECONDS",
            "min": 1.0,
            "help": "Seconds a request waits for busy slots before it is answered with 503 and Retry-After.",
        },
    )
    held_max: int = field(
        default=512,
        metadata={"env": "FLEET_HOLD_MAX_REQUESTS", "help": "Maximum number of waiting requests, held or queued."},
    )
    held_max_bytes: int = field(
        default=256 * 1024 * 1024,
        metadata={"env": "FLEET_HOLD_MAX_BYTES", "help": "Maximum bytes of waiting requests in memory."},
    )
    tenant_share: float = field(
        default=0.5,
        metadata={
            "env": "FLEET_HOLD_TENANT_SHARE",
            "min": 0.01,
            "max": 1.0,
            "help": "Largest share of both FLEET_HOLD_MAX limits for one tenant; alone, it also gets half of the rest.",
        },
    )
    start_grace_s: float = field(
        default=7.0,
        metadata={
            "env": "FLEET_START_GRACE_SECONDS",
            "help": "Seconds after a start in which requests for unknown models wait, until nodes have reported.",
        },
    )


class Holding:
    def __init__(self) -> None:
        self._classes: dict[Hashable, FairOrder] = {}
        self._class_of: dict[RequestId, Hashable] = {}
        self._shares = Shares()

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._class_of

    def add(self, request: Request, conditions: Hashable) -> int:
        """Adds the request, and returns its position in its class from 1."""
        assert request.id not in self._class_of
        order = self._classes.get(conditions)
        if order is None:
            order = self._classes[conditions] = FairOrder(self._shares)
        self._class_of[request.id] = conditions
        return order.add(request.id, request.tenant, request.member)

    def remove(self, request_id: RequestId) -> None:
        conditions = self._class_of.pop(request_id, None)
        if conditions is None:
            return
        order = self._classes[conditions]
        order.remove(request_id)
        if not order:
            del self._classes[conditions]

    def move_to_front(self, request_id: RequestId) -> None:
        self._classes[self._class_of[request_id]].move_to_front(request_id)

    def charge_turn(self, request: Request) -> None:
        """Charges the tenant for a turn, because this request is no longer held."""
        self._shares.charge(request.tenant, TURN, request.member)

    def heads(self) -> list[tuple[Hashable, RequestId]]:
        """The first request of each class, in the order in which the classes were created."""
        return [
            (conditions, head) for conditions, order in self._classes.items() if (head := order.first()) is not None
        ]

    def head(self, conditions: Hashable) -> RequestId | None:
        order = self._classes.get(conditions)
        return order.first() if order is not None else None

    def sequences(self) -> list[list[RequestId]]:
        """The requests of each class, in the order in which they will be tried."""
        return [list(order.sequence(lambda _: TURN)) for order in self._classes.values()]

    def __iter__(self) -> Iterator[RequestId]:
        return iter(self._class_of)
