"""Says in which form this installation runs: compiled (`compiled.toml` lists what), or as Python only."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import Final

COMPILED: Final = "compiled"
PURE: Final = "pure Python"
SAMPLE: Final = "herd.core"
"""A module that every compiled build compiles."""


def build_form() -> str:
    """What the import system would load, so it is also true for a wheel whose libraries this Python cannot load."""
    spec = find_spec(SAMPLE)
    is_compiled = spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
    return COMPILED if is_compiled else PURE
