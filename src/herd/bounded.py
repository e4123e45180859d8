"""A dictionary with a maximum size that drops its oldest entry to take a new one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedDict(OrderedDict[Key, Value]):
    """Holds at most `size_max` entries.

    The oldest entry is the one that was inserted first, or moved to the end first with `move_to_end`. Replacing a value
    keeps the entry's age. Reading is as fast as for a plain dictionary.
    """

    def __init__(self, size_max: int) -> None:
        super().__init__()
        self.size_max = size_max

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        if len(self) > self.size_max:
            self.popitem(last=False)
