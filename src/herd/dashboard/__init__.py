"""What the dashboard shows: the shape of every answer and live message, and how rows and beliefs become one. Pure: rows in, values out.

Knows no database, no clock, no HTTP. Times are unix seconds (`..._at`), durations milliseconds (`..._ms`) or seconds (`..._s`),
sizes bytes. `docs/dashboard-api.md` has an example of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class DashboardRoute:
    """One route: served at `/dashboard/api/<path>` and `/dashboard/api/v1/<path>`. `asks` is the body of a change."""

    method: str
    path: str
    shape: type[msgspec.Struct]
    body: type[msgspec.Struct] | None = None
