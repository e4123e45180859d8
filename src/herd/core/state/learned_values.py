"""What was learnt, as plain values for a store that outlives the process. Learns nothing and knows no database."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

CHANGES_MAX = 16_384
"""Changes remembered until somebody fetches them; the oldest go first. More than all that can be learnt of real fleets."""
TAKEN_MAX = 1_024
"""Changes told at once: one or two milliseconds of a loop that has others to serve."""


@dataclass(frozen=True, slots=True)
class LearnedValue:
    """One belief. `kind` says whose, `subject` is a node or an app (empty: none), `model` a model (empty: all of them); what the
    numbers are is for the kind to say."""

    kind: str
    subject: str
    model: str
    numbers: Mapping[str, float]

    def number(self, name: str, low: float, high: float) -> float | None:
        """None where it is absent, no number, or outside of what it can be."""
        value = self.numbers.get(name)
        if value is None or not math.isfinite(value) or not low <= value <= high:
            return None
        return float(value)


class Changes:
    """Which beliefs have changed since they were last written down."""

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def note(self, kind: str, subject: str, model: str) -> None:
        self._keys[kind, subject, model] = None
        if len(self._keys) > CHANGES_MAX:
            self._keys.popitem(last=False)

    def take(self) -> list[tuple[str, str, str]]:
        """The earliest noted, at most TAKEN_MAX of them, which are told only once."""
        return [self._keys.popitem(last=False)[0] for _ in range(min(TAKEN_MAX, len(self._keys)))]
