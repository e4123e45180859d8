"""Learns the ratio of the tokens that engines count to the estimate from the prompt's size, for each model."""

from __future__ import annotations

from collections import OrderedDict

from herd.core.state.fleet import ModelName
from herd.core.state.learned_values import Changes, LearnedValue

EMA_WEIGHT = 0.1
"""Weight of the newest ratio in the exponential moving average."""
FACTOR_MIN, FACTOR_MAX = 0.25, 4.0
MODELS_MAX = 2048
TOKENS = "tokens"
"""The kind of its learned values, of a model."""


class TokenRatios:
    def __init__(self) -> None:
        self._factors: OrderedDict[ModelName, float] = OrderedDict()
        self._changes = Changes()

    def factor(self, model: ModelName) -> float:
        return self._factors.get(model, 1.0)

    def learn(self, model: ModelName, ratio: float) -> None:
        """`ratio`: counted tokens divided by estimated tokens."""
        clamped = max(FACTOR_MIN, min(FACTOR_MAX, ratio))
        known = self._factors.pop(model, None)
        self._factors[model] = clamped if known is None else known + EMA_WEIGHT * (clamped - known)
        if len(self._factors) > MODELS_MAX:
            self._factors.popitem(last=False)
        self._changes.note(TOKENS, "", model)

    def changes(self) -> list[LearnedValue]:
        """Values that changed since the last call."""
        known = [(key, self._factors.get(ModelName(key[2]))) for key in self._changes.take()]
        return [LearnedValue(*key, {"factor": factor}) for key, factor in known if factor is not None]

    def restore(self, value: LearnedValue) -> None:
        """Restores a value that an earlier process learned. Raises `ValueError` for an invalid value."""
        factor, model = value.number("factor", FACTOR_MIN, FACTOR_MAX), ModelName(value.model)
        if factor is None:
            raise ValueError("factor out of range")
        if model not in self._factors and len(self._factors) < MODELS_MAX:
            self._factors[model] = factor
