"""The `candidates` column of a trace as far as it is shown: who was considered, with what result. Judges nothing.

Read leniently: rows of older versions keep less, and what cannot be read is as good as not kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec


class Seen(msgspec.Struct):
    """What was seen of the node then. Sizes in bytes."""

    in_flight: int = 0
    pending: int = 0
    is_loaded: bool = False
    window_tokens: int | None = None
    size_bytes: int = 0
    free_bytes: int = 0


class Scored(msgspec.Struct):
    """One that could serve. A number that was infinite is None in the row."""

    node_id: str
    total: float | None = 0.0
    depth: int = 0
    terms: dict[str, float | None] = {}
    expected_s: dict[str, float | None] = {}
    seen: Seen | None = None

    @property
    def points(self) -> float:
        return -math.inf if self.total is None else self.total

    @property
    def seconds(self) -> float:
        """The whole expectation. Only where seconds were estimated."""
        return self.term_s("total")

    def term_s(self, name: str) -> float:
        """One part of it, zero where it has none."""
        value = self.expected_s.get(name, 0.0)
        return math.inf if value is None else value


class Rejected(msgspec.Struct):
    node_id: str
    filter: str
    reason: str


class Candidates(msgspec.Struct):
    """Best first; the first is the chosen one, if any was."""

    chosen: str | None = None
    scored: list[Scored] = []
    rejected: list[Rejected] = []
    left_out: int = 0


def of_row(row: Mapping[str, object]) -> Candidates:
    """`row` is one of `request_traces` with its JSON columns decoded."""
    column = row.get("candidates")
    if not isinstance(column, dict):
        return Candidates()
    try:
        return msgspec.convert(column, Candidates)
    except msgspec.ValidationError:
        return Candidates()
