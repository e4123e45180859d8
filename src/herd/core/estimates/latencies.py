"""How long requests took, per node and model: a bounded memory of the newest, and its 75th percentile. Predicts nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from herd.bounded import BoundedDict
from herd.core.state.fleet import ModelName, NodeId

KEPT = 128
"""Observations remembered per node and model."""
PAIRS_MAX = 4096
"""Pairs of node and model remembered; the one not used for longest goes first."""
OBSERVATIONS_MIN = 3
"""Below this many, a percentile would be an anecdote."""


@dataclass(slots=True)
class _Past:
    seen_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    p75_s: float | None = None
    until_fresh: int = 0


class Latencies:
    """The percentile is computed when observations come in (and then only now and then), never when it is read."""

    def __init__(self) -> None:
        self._past = BoundedDict[tuple[NodeId, ModelName], _Past](PAIRS_MAX)

    def observe(self, node_id: NodeId, model: ModelName, latency_s: float) -> None:
        past = self._past.get((node_id, model))
        if past is None:
            past = self._past[(node_id, model)] = _Past()
        past.seen_s.append(latency_s)
        past.until_fresh -= 1
        if past.until_fresh <= 0 and len(past.seen_s) >= OBSERVATIONS_MIN:
            ordered = sorted(past.seen_s)
            past.p75_s = ordered[(3 * len(ordered)) // 4]
            # With many observations one more changes little: sorting each time would cost more than it tells.
            past.until_fresh = len(ordered) // 8

    def p75_s(self, node_id: NodeId, model: ModelName) -> float | None:
        past = self._past.get((node_id, model))
        return past.p75_s if past is not None else None
