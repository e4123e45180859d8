"""How full each model's slots on each node were lately, as a share from 0 to 1. Chooses nobody and knows no queue.

It is the load that decides what one more request costs those who come after it: a line before a node that is mostly idle
will be gone before anybody else asks, a line before a busy one is passed on from each to the next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from herd.core.state.fleet import ModelName, NodeId

HORIZON_S = 300.0
"""What was longer ago than this counts little. Shorter ones take a burst for the load (measured: 1 and 2 minutes lose)."""
PAIRS_MAX = 4096


@dataclass(slots=True)
class _Filled:
    """`mean` is true of the time up to `at`; since then `share` of the slots is taken."""

    mean: float
    at: float
    share: float
    slots: int

    def mean_at(self, at: float) -> float:
        return self.share + (self.mean - self.share) * math.exp(-max(0.0, at - self.at) / HORIZON_S)


class Utilization:
    def __init__(self) -> None:
        self._filled: OrderedDict[tuple[NodeId, ModelName], _Filled] = OrderedDict()

    def started(self, node_id: NodeId, model: ModelName, running: int, slots: int, at: float) -> None:
        """So many run now, the new one among them."""
        key = (node_id, model)
        known = self._filled.pop(key, None)
        mean = known.mean_at(at) if known is not None else 0.0
        self._filled[key] = _Filled(mean, at, min(1.0, running / slots), slots)
        if len(self._filled) > PAIRS_MAX:
            self._filled.popitem(last=False)

    def left(self, node_id: NodeId, model: ModelName, running: int, at: float) -> None:
        """So many still run."""
        known = self._filled.get((node_id, model))
        if known is not None:
            known.mean, known.at, known.share = known.mean_at(at), at, min(1.0, running / known.slots)

    def share(self, node_id: NodeId, model: ModelName, at: float) -> float:
        """The mean share of its slots that were taken; 0 for what was never used."""
        known = self._filled.get((node_id, model))
        return known.mean_at(at) if known is not None else 0.0
