"""How many tokens a prompt really has against the door's estimate, learnt per model from engines' counts. Knows no text."""

from __future__ import annotations

from collections import OrderedDict

from herd.core.state.fleet import ModelName
from herd.core.state.learned_values import Changes, LearnedValue

GAIN = 0.1
FACTOR_MIN, FACTOR_MAX = 0.25, 4.0
MODELS_MAX = 2048
TOKENS = "tokens"
"""The kind of its memories, of a model."""


class TokenRatios:
    def __init__(self) -> None:
        self._factors: OrderedDict[ModelName, float] = OrderedDict()
        self._changes = Changes()

    def factor(self, model: ModelName) -> float:
        return self._factors.get(model, 1.0)

    def learn(self, model: ModelName, ratio: float) -> None:
        """`ratio` is counted over estimated."""
        clamped = max(FACTOR_MIN, min(FACTOR_MAX, ratio))
        known = self._factors.pop(model, None)
        self._factors[model] = clamped if known is None else known + GAIN * (clamped - known)
        if len(self._factors) > MODELS_MAX:
            self._factors.popitem(last=False)
        self._changes.note(TOKENS, "", model)

    def changes(self) -> list[LearnedValue]:
        """What was learnt since this was last asked, for a store."""
        known = [(key, self._factors.get(ModelName(key[2]))) for key in self._changes.take()]
        return [LearnedValue(*key, {"factor": factor}) for key, factor in known if factor is not None]

    def recall(self, memory: LearnedValue) -> None:
        """Believes what an earlier process learnt. Raises `ValueError` for a factor that cannot be."""
        factor, model = memory.number("factor", FACTOR_MIN, FACTOR_MAX), ModelName(memory.model)
        if factor is None:
            raise ValueError("its factor is out of bounds")
        if model not in self._factors and len(self._factors) < MODELS_MAX:
            self._factors[model] = factor
