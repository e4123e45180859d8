"""Measures the recent share of used slots, from 0 to 1, for each model on each node.

The utilization determines how much one more request delays later ones: a queue at a mostly idle node is gone before the
next request arrives, a queue at a busy node delays every request after it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from herd.core.state.changed_nodes import ChangedNodes
from herd.core.state.fleet import ModelName, NodeId

HORIZON_S = 300.0
"""Time constant of the mean. With a shorter one, a short burst counts as a lasting load (1 and 2 minutes are worse)."""
PAIRS_MAX = 4096


@dataclass(slots=True)
class _SlotUse:
    """`mean` is the mean up to `at`; since then `share` of the slots is used."""

    mean: float
    at: float
    share: float
    slots: int

    def mean_at(self, now: float) -> float:
        return self.share + (self.mean - self.share) * math.exp(-max(0.0, now - self.at) / HORIZON_S)


class Utilization:
    def __init__(self) -> None:
        self._slot_use: OrderedDict[tuple[NodeId, ModelName], _SlotUse] = OrderedDict()
        self.forgotten = ChangedNodes()
        """Nodes with a pair that was forgotten, whose share is 0 since then."""

    def record_start(self, node_id: NodeId, model: ModelName, running: int, slots: int, now: float) -> None:
        """A request started; `running` requests run now, including it."""
        key = (node_id, model)
        share = running / slots if running < slots else 1.0
        known = self._slot_use.get(key)
        if known is not None:
            known.mean, known.at, known.share, known.slots = known.mean_at(now), now, share, slots
            self._slot_use.move_to_end(key)
            return
        self._slot_use[key] = _SlotUse(0.0, now, share, slots)
        if len(self._slot_use) > PAIRS_MAX:
            (forgotten, _), _ = self._slot_use.popitem(last=False)
            self.forgotten.note(forgotten)

    def record_end(self, node_id: NodeId, model: ModelName, running: int, now: float) -> None:
        """A request ended; `running` requests run now."""
        known = self._slot_use.get((node_id, model))
        if known is not None:
            known.mean, known.at, known.share = known.mean_at(now), now, min(1.0, running / known.slots)

    def share(self, node_id: NodeId, model: ModelName, now: float) -> float:
        """The mean share of used slots; 0 for a pair that was never used."""
        known = self._slot_use.get((node_id, model))
        return known.mean_at(now) if known is not None else 0.0

    def least_share(self, node_id: NodeId, model: ModelName, now: float) -> float:
        """The least that `share` will be until a request starts or ends there, or the pair is forgotten."""
        known = self._slot_use.get((node_id, model))
        return min(known.mean_at(now), known.share) if known is not None else 0.0
