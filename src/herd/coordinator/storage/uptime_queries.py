"""How each node was, a letter for each stretch of time: read from the sums that the coordinator keeps of their states. Decides no state."""

from __future__ import annotations

import math
import sqlite3
from types import MappingProxyType
from typing import NamedTuple

from herd.dashboard.tabs.health import NodeUptime, UptimeBars
from herd.errors import BadRequest

NODES_MAX = 500
SHARE_MIN = 0.02
"""So much of a stretch, of those in which anybody watched, is worth a letter of its own; less is a hiccup."""


class UptimeRange(NamedTuple):
    """A range of time, cut into stretches; `query` reads the coarsest sums that are fine enough."""

    seconds: int
    step_s: int
    query: str


MINUTES = """SELECT node_id, CAST((bucket - :from_at) / :step_s AS INTEGER) AS cell, SUM(online_s), SUM(degraded_s), SUM(yielding_s + draining_s), SUM(gone_s)
    FROM node_minutes WHERE bucket >= :from_at AND bucket < :to_at GROUP BY node_id, cell ORDER BY node_id, cell"""
HOURS = """SELECT node_id, CAST((bucket - :from_at) / :step_s AS INTEGER) AS cell, SUM(online_s), SUM(degraded_s), SUM(yielding_s + draining_s), SUM(gone_s)
    FROM node_hours WHERE bucket >= :from_at AND bucket < :to_at GROUP BY node_id, cell ORDER BY node_id, cell"""
DAY_S = 86400
SPANS = MappingProxyType(
    {
        "24h": UptimeRange(DAY_S, 600, MINUTES),
        "7d": UptimeRange(7 * DAY_S, 3600, HOURS),
        "30d": UptimeRange(30 * DAY_S, 14400, HOURS),
        "90d": UptimeRange(90 * DAY_S, 43200, HOURS),
    }
)
UNKNOWN = "-"


def span_of(name: str) -> UptimeRange:
    """Raises `BadRequest`."""
    found = SPANS.get(name)
    if found is None:
        raise BadRequest(f"range is one of {', '.join(SPANS)}, not {name[:20]!r}")
    return found


def strips(connection: sqlite3.Connection, name: str, now: float) -> UptimeBars:
    """Every node of which anything is known in that range, by name. The last stretch is the one that has begun. Raises `sqlite3.Error`."""
    span = span_of(name)
    to_at = math.floor(now / span.step_s + 1) * span.step_s
    from_at, count = to_at - span.seconds, span.seconds // span.step_s
    cells: dict[str, list[str]] = {}
    for node_id, cell, *seconds in connection.execute(
        span.query, {"from_at": from_at, "to_at": to_at, "step_s": span.step_s}
    ):
        if 0 <= cell < count and (node_id in cells or len(cells) < NODES_MAX):
            cells.setdefault(str(node_id), [UNKNOWN] * count)[cell] = letter(*seconds)
    return UptimeBars(
        name,
        tuple(
            NodeUptime(node_id, name, float(span.step_s), float(from_at), "".join(states))
            for node_id, states in cells.items()
        ),
    )


def letter(online_s: float, degraded_s: float, lent_s: float, gone_s: float) -> str:
    """The worst of what was not only a hiccup; `-` where nobody watched."""
    watched_s = online_s + degraded_s + lent_s + gone_s
    if watched_s <= 0:
        return UNKNOWN
    for seconds, state in ((gone_s, "o"), (degraded_s, "d"), (lent_s, "p")):
        if seconds > SHARE_MIN * watched_s:
            return state
    return "u"
