"""Who waits because no node can take it now: in which order, how many, how long. Knows nothing of nodes: it is told what became possible.

Requests that could run under the same conditions form a class; only the head of each class is tried again, so
waking a thousand waiting requests costs as many decisions as there are classes. The head is chosen fairly between tenants,
by turns: where a request will run, and so how long it takes, is not known before it has a node.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from herd.core.state.fairness import TURN, FairOrder, Shares
from herd.core.state.request import RequestId


@dataclass(frozen=True, slots=True)
class HoldingSettings:
    wait_max_s: float = field(
        default=30.0,
        metadata={
            "env": "FLEET_HOLD_MAX_SECONDS",
            "help": "Seconds a request waits for a node before it is answered with 503.",
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
            "help": "Share of both limits for one tenant while others wait; alone, it may also use half of the rest.",
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

    def add(self, request_id: RequestId, tenant: str, conditions: Hashable) -> int:
        """Its position in its class, from 1."""
        assert request_id not in self._class_of
        line = self._classes.get(conditions)
        if line is None:
            line = self._classes[conditions] = FairOrder(self._shares)
        self._class_of[request_id] = conditions
        return line.add(request_id, tenant)

    def remove(self, request_id: RequestId) -> None:
        conditions = self._class_of.pop(request_id, None)
        if conditions is None:
            return
        line = self._classes[conditions]
        line.remove(request_id)
        if not line:
            del self._classes[conditions]

    def move_to_front(self, request_id: RequestId) -> None:
        self._classes[self._class_of[request_id]].move_to_front(request_id)

    def served(self, tenant: str) -> None:
        """One of its requests has found a place: its turn is used."""
        self._shares.charge(tenant, TURN)

    def heads(self) -> list[tuple[Hashable, RequestId]]:
        """Whose turn it is in each class, classes in the order of their heads' arrival here."""
        return [(conditions, head) for conditions, line in self._classes.items() if (head := line.first()) is not None]

    def head(self, conditions: Hashable) -> RequestId | None:
        line = self._classes.get(conditions)
        return line.first() if line is not None else None

    def lines(self) -> list[list[RequestId]]:
        """Each class, in the order in which it will be tried."""
        return [list(line.sequence(lambda _: TURN)) for line in self._classes.values()]

    def __iter__(self) -> Iterator[RequestId]:
        return iter(self._class_of)
