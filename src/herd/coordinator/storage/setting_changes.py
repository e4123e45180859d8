"""Stores changes of settings made in the dashboard: which setting, old and new value, who, when."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from herd.dashboard.pages.settings import SettingChangeLine

ROWS_MAX = 2_000
"""Maximum number of changes; the oldest are deleted first."""
LISTED_MAX = 200
TABLES = (
    """CREATE TABLE IF NOT EXISTS setting_changes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, name TEXT NOT NULL, before TEXT, after TEXT,
        who TEXT NOT NULL, ip TEXT NOT NULL
    )""",
)
INSERT = "INSERT INTO setting_changes (at, name, before, after, who, ip) VALUES (?, ?, ?, ?, ?, ?)"
DELETE_SURPLUS = "DELETE FROM setting_changes WHERE id <= (SELECT MAX(id) FROM setting_changes) - ?"
SELECT = """SELECT id, at, name, before, after, who, ip,
        id = (SELECT MAX(id) FROM setting_changes last WHERE last.name = c.name) FROM setting_changes c """
SELECT_NEWEST = SELECT + "ORDER BY id DESC LIMIT ?"
SELECT_ONE = SELECT + "WHERE id = ?"


class SettingChange(NamedTuple):
    """`before` and `after` are the values set in the dashboard; None means that the dashboard sets no value."""

    at: float
    name: str
    before: str | None
    after: str | None
    who: str
    ip: str


def insert_change(connection: sqlite3.Connection, entry: SettingChange) -> int:
    """Inserts the change in one transaction and returns its id. Raises `sqlite3.Error`."""
    connection.execute("BEGIN IMMEDIATE")
    change_id = connection.execute(INSERT, entry).lastrowid
    connection.execute(DELETE_SURPLUS, (ROWS_MAX,))
    connection.execute("COMMIT")
    return change_id or 0


def recent_changes(connection: sqlite3.Connection) -> list[SettingChangeLine]:
    """The newest changes first."""
    return [_line(row) for row in connection.execute(SELECT_NEWEST, (LISTED_MAX,))]


def find_change(connection: sqlite3.Connection, change_id: int) -> SettingChangeLine | None:
    """The change with this id, or None. SQLite rejects an id of more than 63 bits."""
    if not 0 < change_id < 1 << 63:
        return None
    row = connection.execute(SELECT_ONE, (change_id,)).fetchone()
    return _line(row) if row else None


def _line(row: Sequence[object]) -> SettingChangeLine:
    change_id, at, name, before, after, who, ip, is_last = row
    assert isinstance(change_id, int) and isinstance(at, float)
    texts = [None if value is None else str(value) for value in (before, after)]
    return SettingChangeLine(
        change_id=change_id,
        at=at,
        name=str(name),
        before=texts[0],
        after=texts[1],
        who=str(who),
        ip=str(ip),
        may_undo=bool(is_last),
    )
