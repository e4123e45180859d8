"""Builds the uptime bars of the nodes: one letter for each interval, from the stored seconds in each state."""

from __future__ import annotations

import math
import sqlite3
from types import MappingProxyType
from typing import NamedTuple

from herd.dashboard.pages.health import NodeUptime, UptimeBars
from herd.errors import BadRequest

NODES_MAX = 500
SHARE_MIN = 0.02
"""A state is shown if it lasted for more than this share of the observed part of an interval."""


class UptimeRange(NamedTuple):
    """A range of time in intervals of `step_s`; `query` reads the table with the largest suitable buckets."""

    seconds: int
    step_s: int
    query: str


MINUTES = """SELECT node_id, CAST((bucket - :from_at) / :step_s AS INTEGER) AS cell,
        SUM(online_s), SUM(degraded_s), SUM(yielding_s + draining_s), SUM(gone_s)
    FROM node_minutes WHERE bucket >= :from_at AND bucket < :to_at GROUP BY node_id, cell ORDER BY node_id, cell"""
HOURS = MINUTES.replace("node_minutes", "node_hours")
DAY_S = 86400
RANGES = MappingProxyType(
    {
        "24h": UptimeRange(DAY_S, 600, MINUTES),
        "7d": UptimeRange(7 * DAY_S, 3600, HOURS),
        "30d": UptimeRange(30 * DAY_S, 14400, HOURS),
        "90d": UptimeRange(90 * DAY_S, 43200, HOURS),
    }
)
UNKNOWN = "-"


def range_of(name: str) -> UptimeRange:
    """Raises `BadRequest`."""
    found = RANGES.get(name)
    if found is None:
        raise BadRequest(f"range must be one of {', '.join(RANGES)}, not {name[:20]!r}")
    return found


def uptime_bars(connection: sqlite3.Connection, name: str, now: float) -> UptimeBars:
    """The bars of every node with stored states in the range. The last interval has not ended yet.

    Raises `BadRequest` and `sqlite3.Error`.
    """
    wanted = range_of(name)
    to_at = math.floor(now / wanted.step_s + 1) * wanted.step_s
    from_at, count = to_at - wanted.seconds, wanted.seconds // wanted.step_s
    cells: dict[str, list[str]] = {}
    for node_id, cell, *seconds in connection.execute(
        wanted.query, {"from_at": from_at, "to_at": to_at, "step_s": wanted.step_s}
    ):
        if 0 <= cell < count and (node_id in cells or len(cells) < NODES_MAX):
            cells.setdefault(str(node_id), [UNKNOWN] * count)[cell] = letter(*seconds)
    return UptimeBars(
        name,
        tuple(
            NodeUptime(node_id, name, float(wanted.step_s), float(from_at), "".join(states))
            for node_id, states in cells.items()
        ),
    )


def letter(online_s: float, degraded_s: float, paused_s: float, gone_s: float) -> str:
    """The worst state that lasted long enough: offline, degraded, paused or up; `-` if the coordinator was not
    running."""
    observed_s = online_s + degraded_s + paused_s + gone_s
    if observed_s <= 0:
        return UNKNOWN
    for seconds, state in ((gone_s, "o"), (degraded_s, "d"), (paused_s, "p")):
        if seconds > SHARE_MIN * observed_s:
            return state
    return "u"
