"""Stores how long each node was in each state, per minute and per hour, and the events of the fleet.

    node_minutes, node_hours    per node and bucket: seconds in each state, and slot seconds
    fleet_events                a node came online or went offline, the coordinator started, a setting changed

A bucket without a row means that the coordinator was not running.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

STEP_ROWS = 2_000
"""Rows deleted in one transaction."""
EVENTS_MAX = 20_000
"""Maximum number of events; the oldest are deleted first."""
TEXT_MAX_CHARS = 300
STATES = ("online", "degraded", "yielding", "draining", "gone")
"""The states whose seconds are counted; each has a column."""
COUNTED_AS = (
    ("online", "online"),
    ("busy", "online"),
    ("waking", "online"),
    ("degraded", "degraded"),
    ("yielding", "yielding"),
    ("paused", "yielding"),
    ("asleep", "gone"),
    ("draining", "draining"),
    ("gone", "gone"),
)
"""The column in which each state of a node is counted."""

_COLUMNS = ", ".join(f"{state}_s REAL NOT NULL DEFAULT 0" for state in STATES)
TABLES = (
    *(
        f"""CREATE TABLE IF NOT EXISTS node_{size} (
            bucket INTEGER NOT NULL, node_id TEXT NOT NULL, {_COLUMNS}, slot_s REAL NOT NULL DEFAULT 0,
            PRIMARY KEY (bucket, node_id)
        ) WITHOUT ROWID"""
        for size in ("minutes", "hours")
    ),
    """CREATE TABLE IF NOT EXISTS fleet_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, about TEXT NOT NULL
    )""",
)
INDEXES = ("CREATE INDEX IF NOT EXISTS idx_fleet_events_at ON fleet_events(at)",)


class StateInterval(NamedTuple):
    """A node was in `state` for `seconds` until `at` (unix time), with `slots` usable slots."""

    at: float
    node_id: str
    state: str
    seconds: float
    slots: int


class FleetEvent(NamedTuple):
    """`kind` is a word such as "node_joined", `about` is a sentence."""

    at: float
    kind: str
    about: str


def _upsert(size: str, seconds: int) -> str:
    placeholders = ", ".join("?" for _ in STATES)
    added = ", ".join(f"{state}_s = {state}_s + excluded.{state}_s" for state in STATES)
    return f"""INSERT INTO node_{size} VALUES (CAST(? / {seconds} AS INTEGER) * {seconds}, ?, {placeholders}, ?)
        ON CONFLICT (bucket, node_id)
        DO UPDATE SET {added}, slot_s = slot_s + excluded.slot_s"""  # noqa: S608 - constants


_UPSERTS = (_upsert("minutes", 60), _upsert("hours", 3600))
_INSERT_EVENT = "INSERT INTO fleet_events (at, kind, about) VALUES (?, ?, ?)"
_DELETE_SURPLUS = "DELETE FROM fleet_events WHERE id <= (SELECT MAX(id) FROM fleet_events) - ?"


def insert_history(
    connection: sqlite3.Connection, intervals: Sequence[StateInterval], events: Iterable[FleetEvent]
) -> None:
    """Inserts both in one transaction. Raises `sqlite3.Error`; after a rollback nothing has changed."""
    counted = dict(COUNTED_AS)
    rows = [
        (
            interval.at,
            interval.node_id,
            *(interval.seconds if counted[interval.state] == state else 0.0 for state in STATES),
            interval.slots * interval.seconds,
        )
        for interval in intervals
    ]
    connection.execute("BEGIN IMMEDIATE")
    for statement in _UPSERTS:
        connection.executemany(statement, rows)
    connection.executemany(_INSERT_EVENT, [(one.at, one.kind, one.about[:TEXT_MAX_CHARS]) for one in events])
    connection.execute(_DELETE_SURPLUS, (EVENTS_MAX,))
    connection.execute("COMMIT")


_DELETE_OLD = tuple(
    f"""DELETE FROM node_{size} WHERE (bucket, node_id) IN (
        SELECT bucket, node_id FROM node_{size} WHERE bucket < ? ORDER BY bucket LIMIT ?)"""  # noqa: S608 - constants
    for size in ("minutes", "hours")
)


def trim(connection: sqlite3.Connection, now: float, minutes_days: float, hours_days: float) -> bool:
    """Deletes at most `STEP_ROWS` rows of each table; True if more are left. `now` is unix time. Raises
    `sqlite3.Error`."""
    deleted = [
        connection.execute(statement, (now - days * 86_400.0, STEP_ROWS)).rowcount
        for statement, days in zip(_DELETE_OLD, (minutes_days, hours_days), strict=True)
    ]
    return max(deleted) == STEP_ROWS
