"""Who waits because no node can take it now: in which order, how many, how long. Knows nothing of nodes: it is told what became possible.

Requests that could run under the same conditions form a class; only the head of each class is tried again, so
waking a thousand waiting requests costs as many decisions as there are classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from herd.core.request import RequestId


@dataclass(frozen=True, slots=True)
class HoldingSettings:
    wait_max_s: float = field(
        default=30.0,
        metadata={"env": "FLEET_HOLD_MAX_SECONDS", "help": "How long a request may wait for a node before it is answered with 503."},
    )
    held_max: int = field(
        default=512,
        metadata={"env": "FLEET_HOLD_MAX_REQUESTS", "help": "How many requests may wait at the same time, held or queued."},
    )
    held_max_bytes: int = field(
        default=256 * 1024 * 1024,
        metadata={"env": "FLEET_HOLD_MAX_BYTES", "help": "How many bytes of waiting requests are kept in memory."},
    )
    start_grace_s: float = field(
        default=7.0,
        metadata={"env": "FLEET_START_GRACE_SECONDS", "help": "After a start, how long unknown models are waited for: nodes report every 5 s."},
    )


class Holding:
    def __init__(self) -> None:
        self._classes: dict[Hashable, OrderedDict[RequestId, None]] = {}
        self._class_of: dict[RequestId, Hashable] = {}

    def __len__(self) -> int:
        return len(self._class_of)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._class_of

    def add(self, request_id: RequestId, conditions: Hashable) -> int:
        """Its position in its class, from 1."""
        assert request_id not in self._class_of
        waiting = self._classes.setdefault(conditions, OrderedDict())
        waiting[request_id] = None
        self._class_of[request_id] = conditions
        return len(waiting)

    def remove(self, request_id: RequestId) -> None:
        conditions = self._class_of.pop(request_id, None)
        if conditions is None:
            return
        waiting = self._classes[conditions]
        del waiting[request_id]
        if not waiting:
            del self._classes[conditions]

    def move_to_front(self, request_id: RequestId) -> None:
        self._classes[self._class_of[request_id]].move_to_end(request_id, last=False)

    def heads(self) -> list[tuple[Hashable, RequestId]]:
        """The longest-waiting request of each class, classes in the order of their heads' arrival here."""
        return [(conditions, next(iter(waiting))) for conditions, waiting in self._classes.items()]

    def head(self, conditions: Hashable) -> RequestId | None:
        waiting = self._classes.get(conditions)
        return next(iter(waiting)) if waiting else None

    def __iter__(self) -> Iterator[RequestId]:
        return iter(self._class_of)
