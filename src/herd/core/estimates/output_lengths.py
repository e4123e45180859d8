"""Learns how long answers are, for each app and model, and how much their lengths vary.

Completion time needs the mean, because the sum of many answers is what occupies a node. One endless answer must not
change it much, so a sample counts at most a multiple of the present mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from herd.bounded import BoundedDict
from herd.core.state.fleet import ModelName
from herd.core.state.learned_values import Changes, LearnedValue
from herd.core.state.request import Request, RequestKind

TOKENS_DEFAULT = 200.0
KEYS_MAX = 4096
GAIN_MIN = 0.05
SURPRISE_FACTOR_MAX = 8.0
IRREGULARITY_DEFAULT = 0.8
OUTPUT = "output"
"""The kind of its learned values, of an app and a model."""
TOKENS_MAX = 1e9
SAMPLES_MAX = 1e12


@dataclass(slots=True)
class _Lengths:
    mean: float = TOKENS_DEFAULT
    square: float = TOKENS_DEFAULT * TOKENS_DEFAULT * (1.0 + IRREGULARITY_DEFAULT)
    """Mean of the squares."""
    samples: int = 0

    def learn(self, tokens: float) -> None:
        gain = max(GAIN_MIN, 1.0 / (self.samples + 2))
        capped = min(tokens, SURPRISE_FACTOR_MAX * max(self.mean, 16.0))
        self.mean += gain * (capped - self.mean)
        self.square += gain * (capped * capped - self.square)
        self.samples += 1


class OutputLengths:
    def __init__(self) -> None:
        self._seen = BoundedDict[tuple[str, ModelName], _Lengths](KEYS_MAX)
        self._changes = Changes()

    def expected_tokens(self, request: Request, model: ModelName) -> float:
        """Expected output tokens, at most the request's limit. Embeddings produce none."""
        if request.kind is RequestKind.EMBED or request.kind is RequestKind.INFO:
            return 0.0
        seen = self._seen.get((_app(request), model)) or self._seen.get(("", model))
        mean = seen.mean if seen is not None else TOKENS_DEFAULT
        return min(mean, float(request.output_tokens_max)) if request.output_tokens_max else mean

    def irregularity(self, model: ModelName) -> float:
        """0 if all answers of the model are equally long, 1 if the elapsed time says nothing about the rest (squared
        coefficient of variation, at most 1)."""
        seen = self._seen.get(("", model))
        if seen is None or seen.samples < 4:
            return IRREGULARITY_DEFAULT
        mean = max(seen.mean, 1.0)
        return max(0.0, min(1.0, seen.square / (mean * mean) - 1.0))

    def learn(self, request: Request, model: ModelName, tokens: int) -> None:
        app = _app(request)
        self._update(("", model), float(tokens))
        if app:
            self._update((app, model), float(tokens))

    def _update(self, key: tuple[str, ModelName], tokens: float) -> None:
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Lengths()
        self._seen.move_to_end(key)
        seen.learn(tokens)
        self._changes.note(OUTPUT, *key)

    def changes(self) -> list[LearnedValue]:
        """Values that changed since the last call: mean and mean square in tokens."""
        known = [(key, self._seen.get((key[1], ModelName(key[2])))) for key in self._changes.take()]
        return [
            LearnedValue(*key, {"mean": seen.mean, "square": seen.square, "samples": seen.samples})
            for key, seen in known
            if seen is not None
        ]

    def restore(self, value: LearnedValue) -> None:
        """Restores a value that an earlier process learned. Raises `ValueError` for an invalid value."""
        mean, square = value.number("mean", 0.0, TOKENS_MAX), value.number("square", 0.0, TOKENS_MAX**2)
        samples, key = value.number("samples", 1, SAMPLES_MAX), (value.subject, ModelName(value.model))
        if mean is None or square is None or samples is None:
            raise ValueError("numbers out of range")
        if key not in self._seen and len(self._seen) < KEYS_MAX:
            self._seen[key] = _Lengths(mean, square, int(samples))


def _app(request: Request) -> str:
    return request.tags[0] if request.tags else ""
