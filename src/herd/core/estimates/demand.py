"""How soon a model will be asked for again, learnt from arrivals. Knows no node; evicts nothing."""

from __future__ import annotations

import math
from collections import OrderedDict

from herd.core.state.fleet import ModelName

MODELS_MAX = 2048
GAIN = 0.2
GAP_MIN_S = 0.05
GAP_DEFAULT_S = 600.0
"""A model seen once is expected again in ten minutes."""


class Demand:
    def __init__(self) -> None:
        self._seen: OrderedDict[ModelName, tuple[float, float]] = OrderedDict()

    def arrived(self, model: ModelName, at: float) -> None:
        last_at, gap_s = self._seen.pop(model, (None, GAP_DEFAULT_S))
        if last_at is not None:
            gap_s += GAIN * (min(at - last_at, 10 * GAP_DEFAULT_S) - gap_s)
        self._seen[model] = (at, gap_s)
        if len(self._seen) > MODELS_MAX:
            self._seen.popitem(last=False)

    def gap_s(self, model: ModelName, at: float) -> float | None:
        """Seconds between two arrivals, as they are expected now; None for a model that nobody ever asked for.

        The gap since the last arrival counts too: a model that has been silent for long is asked for less often
        than its average says.
        """
        known = self._seen.get(model)
        return max(known[1], at - known[0], GAP_MIN_S) if known is not None else None


def probability_within(gap_s: float, horizon_s: float) -> float:
    """Chance, 0..1, that a model with such a gap is asked for within the horizon; arrivals taken as a Poisson process.

    A gap of 0 is that of a model that is answering now.
    """
    return 1.0 - math.exp(-horizon_s / gap_s) if gap_s else 1.0
