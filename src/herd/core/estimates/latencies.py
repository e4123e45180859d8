"""Stores the newest request latencies for each node and model, and their 75th percentile."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from herd.bounded import BoundedDict
from herd.core.state.fleet import ModelName, NodeId

OBSERVATIONS_MAX = 128
"""Observations stored for each node and model."""
PAIRS_MAX = 4096
"""Pairs of node and model; the least recently used is dropped first."""
OBSERVATIONS_MIN = 3
"""Fewest observations for a percentile."""


@dataclass(slots=True)
class _Observations:
    seen_s: deque[float] = field(default_factory=lambda: deque(maxlen=OBSERVATIONS_MAX))
    p75_s: float | None = None
    until_update: int = 0


class Latencies:
    """The percentile is computed when observations are added, and not for each of them; never when it is read."""

    def __init__(self) -> None:
        self._known = BoundedDict[tuple[NodeId, ModelName], _Observations](PAIRS_MAX)

    def observe(self, node_id: NodeId, model: ModelName, latency_s: float) -> None:
        known = self._known.get((node_id, model))
        if known is None:
            known = self._known[(node_id, model)] = _Observations()
        known.seen_s.append(latency_s)
        known.until_update -= 1
        if known.until_update <= 0 and len(known.seen_s) >= OBSERVATIONS_MIN:
            ordered = sorted(known.seen_s)
            known.p75_s = ordered[(3 * len(ordered)) // 4]
            # With many observations one more changes little: sorting each time would cost too much.
            known.until_update = len(ordered) // 8

    def p75_s(self, node_id: NodeId, model: ModelName) -> float | None:
        known = self._known.get((node_id, model))
        return known.p75_s if known is not None else None
