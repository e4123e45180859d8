"""Defines the JSON answers and live messages of the dashboard, and builds them from stored rows and the core's state.

All functions are pure: they take rows and records and return values. Times are unix seconds (`..._at`), durations
are milliseconds (`..._ms`) or seconds (`..._s`), sizes are bytes. `docs/dashboard-api.md` has an example of each
answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class DashboardRoute:
    """One route, served at `/dashboard/api/<path>` and `/dashboard/api/v1/<path>`. `shape` is the answer, `body` the
    request body."""

    method: str
    path: str
    shape: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
