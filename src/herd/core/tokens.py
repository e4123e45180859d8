"""How many tokens a prompt really has against the door's estimate, learnt per model from engines' counts. Knows no text."""

from __future__ import annotations

from collections import OrderedDict

from herd.core.fleet import ModelName

GAIN = 0.1
FACTOR_MIN, FACTOR_MAX = 0.25, 4.0
MODELS_MAX = 2048


class Tokens:
    def __init__(self) -> None:
        self._factors: OrderedDict[ModelName, float] = OrderedDict()

    def factor(self, model: ModelName) -> float:
        return self._factors.get(model, 1.0)

    def learn(self, model: ModelName, ratio: float) -> None:
        """`ratio` is counted over estimated."""
        clamped = max(FACTOR_MIN, min(FACTOR_MAX, ratio))
        known = self._factors.pop(model, None)
        self._factors[model] = clamped if known is None else known + GAIN * (clamped - known)
        if len(self._factors) > MODELS_MAX:
            self._factors.popitem(last=False)
