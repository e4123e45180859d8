"""Defines how much memory and disk models may use on a node, as its agent's settings or an administrator limit it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

UNITS_BYTES = MappingProxyType({"mb": 10**6, "gb": 10**9, "tb": 10**12, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40})
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]i?b)", re.IGNORECASE)
EXPECTED = "an amount such as 20GB, 1.5TB or 50%, or none"


@dataclass(frozen=True, slots=True)
class Budget:
    """None: no limit."""

    memory_bytes: int | None = None
    disk_bytes: int | None = None

    def within(self, other: Budget) -> Budget:
        """The smaller of both limits: a machine's owner and an administrator can each lower them."""
        return Budget(_least(self.memory_bytes, other.memory_bytes), _least(self.disk_bytes, other.disk_bytes))


NO_BUDGET = Budget()


def parse_amount(text: str, total_bytes: int) -> int | None:
    """Bytes of `20GB`, or of `50%` of the total; None for an empty text or `none`. Raises `ValueError`."""
    text = text.strip().lower()
    if text in ("", "none"):
        return None
    found = _AMOUNT.fullmatch(text)
    if found is None or (found[2] != "%" and found[2] not in UNITS_BYTES):
        raise ValueError(f"{text[:40]!r} is not {EXPECTED}")
    if found[2] == "%":
        if float(found[1]) > 100:
            raise ValueError(f"{text[:40]!r} is more than everything")
        return int(total_bytes * float(found[1]) / 100)
    return int(float(found[1]) * UNITS_BYTES[found[2]])


def _least(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
