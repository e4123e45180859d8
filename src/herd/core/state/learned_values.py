"""Defines learned values for the store, and the list of values that changed since they were stored."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

CHANGES_MAX = 16_384
"""Most changes that wait to be stored; the oldest are dropped first. Real fleets have fewer."""
TAKEN_MAX = 1_024
"""Most changes returned at once: one or two milliseconds of the event loop."""


@dataclass(frozen=True, slots=True)
class LearnedValue:
    """One learned value. `subject` is a node or an app (empty: none), `model` a model (empty: all). The meaning of the
    numbers depends on `kind`."""

    kind: str
    subject: str
    model: str
    numbers: Mapping[str, float]

    def number(self, name: str, low: float, high: float) -> float | None:
        """The number; None if it is absent, not finite, or out of range."""
        value = self.numbers.get(name)
        if value is None or not math.isfinite(value) or not low <= value <= high:
            return None
        return float(value)


class Changes:
    """The learned values that changed since they were last stored."""

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def note(self, kind: str, subject: str, model: str) -> None:
        self._keys[kind, subject, model] = None
        if len(self._keys) > CHANGES_MAX:
            self._keys.popitem(last=False)

    def take(self) -> list[tuple[str, str, str]]:
        """Removes and returns the oldest changes, at most TAKEN_MAX."""
        return [self._keys.popitem(last=False)[0] for _ in range(min(TAKEN_MAX, len(self._keys)))]
