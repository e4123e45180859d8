"""Estimates how soon a model will be requested again, from the arrivals of requests."""

from __future__ import annotations

import math
from collections import OrderedDict

from herd.core.state.fleet import ModelName

MODELS_MAX = 2048
EMA_WEIGHT = 0.2
"""Weight of the newest gap in the exponential moving average."""
GAP_MIN_S = 0.05
GAP_DEFAULT_S = 600.0
"""Expected gap of a model that was requested once."""


class Demand:
    def __init__(self) -> None:
        self._seen: OrderedDict[ModelName, tuple[float, float]] = OrderedDict()

    def record_arrival(self, model: ModelName, now: float) -> None:
        last_at, gap_s = self._seen.pop(model, (None, GAP_DEFAULT_S))
        if last_at is not None:
            gap_s += EMA_WEIGHT * (min(now - last_at, 10 * GAP_DEFAULT_S) - gap_s)
        self._seen[model] = (now, gap_s)
        if len(self._seen) > MODELS_MAX:
            self._seen.popitem(last=False)

    def gap_s(self, model: ModelName, now: float) -> float | None:
        """Expected seconds between two requests; None for a model that was never requested.

        The time since the last request counts too: a model without requests for long is requested less often than its
        mean says.
        """
        known = self._seen.get(model)
        return max(known[1], now - known[0], GAP_MIN_S) if known is not None else None


def probability_within(gap_s: float, horizon_s: float) -> float:
    """The probability that a model with this gap is requested within the horizon, if arrivals are a Poisson process.

    The gap of a model that is answering now is 0.
    """
    return 1.0 - math.exp(-horizon_s / gap_s) if gap_s else 1.0
