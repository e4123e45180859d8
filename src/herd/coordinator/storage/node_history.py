"""How long each node was in which state, by minute and hour, and what happened in the fleet: how it is kept. Decides nothing.

    node_minutes, node_hours    per node and bucket: seconds online (busy or not), degraded, lent back, draining, gone; slots
    fleet_events                a node joined or left, the coordinator started, a setting changed

While the coordinator does not run nothing is written: that a bucket has no row means that nobody was watching.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

EVENTS_MAX = 20_000
"""Events kept; the oldest go first."""
TEXT_MAX_CHARS = 300
STATES = ("online", "degraded", "yielding", "draining", "gone")
"""The states whose seconds are counted, a column each."""
COUNTED_AS = (
    ("online", "online"),
    ("busy", "online"),
    ("waking", "online"),
    ("degraded", "degraded"),
    ("yielding", "yielding"),
    ("asleep", "gone"),
    ("draining", "draining"),
    ("gone", "gone"),
)
"""Under which of them each state of a card is counted."""

_COLUMNS = ", ".join(f"{state}_s REAL NOT NULL DEFAULT 0" for state in STATES)
TABLES = (
    *(
        f"""CREATE TABLE IF NOT EXISTS node_{size} (
            bucket INTEGER NOT NULL, node_id TEXT NOT NULL, {_COLUMNS}, slot_s REAL NOT NULL DEFAULT 0, PRIMARY KEY (bucket, node_id)
        ) WITHOUT ROWID"""
        for size in ("minutes", "hours")
    ),
    "CREATE TABLE IF NOT EXISTS fleet_events (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, about TEXT NOT NULL)",
)
INDEXES = ("CREATE INDEX IF NOT EXISTS idx_fleet_events_at ON fleet_events(at)",)


class StateInterval(NamedTuple):
    """A node was in `state` for `seconds` until `at` (unix time), with so many slots that could serve."""

    at: float
    node_id: str
    state: str
    seconds: float
    slots: int


class Event(NamedTuple):
    """`kind` is a word such as "node_joined"; `about` a sentence."""

    at: float
    kind: str
    about: str


def _add(size: str, seconds: int) -> str:
    places = ", ".join("?" for _ in STATES)
    added = ", ".join(f"{state}_s = {state}_s + excluded.{state}_s" for state in STATES)
    return f"""INSERT INTO node_{size} VALUES (CAST(? / {seconds} AS INTEGER) * {seconds}, ?, {places}, ?)
        ON CONFLICT (bucket, node_id) DO UPDATE SET {added}, slot_s = slot_s + excluded.slot_s"""  # noqa: S608 - constants


_ADD = (_add("minutes", 60), _add("hours", 3600))
_INSERT_EVENT = "INSERT INTO fleet_events (at, kind, about) VALUES (?, ?, ?)"
_SURPLUS = "DELETE FROM fleet_events WHERE id <= (SELECT MAX(id) FROM fleet_events) - ?"


def keep(connection: sqlite3.Connection, stays: Sequence[StateInterval], events: Iterable[Event]) -> None:
    """In one transaction. Raises `sqlite3.Error`; then nothing was changed once it is rolled back."""
    counted = dict(COUNTED_AS)
    rows = [
        (
            stay.at,
            stay.node_id,
            *(stay.seconds if counted[stay.state] == state else 0.0 for state in STATES),
            stay.slots * stay.seconds,
        )
        for stay in stays
    ]
    connection.execute("BEGIN IMMEDIATE")
    for statement in _ADD:
        connection.executemany(statement, rows)
    connection.executemany(_INSERT_EVENT, [(one.at, one.kind, one.about[:TEXT_MAX_CHARS]) for one in events])
    connection.execute(_SURPLUS, (EVENTS_MAX,))
    connection.execute("COMMIT")
