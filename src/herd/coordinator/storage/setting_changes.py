"""Which setting was changed in the dashboard, from what to what, by whom: how it is kept and read again. Decides nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from herd.dashboard.tabs.settings import SettingChangeLine

KEPT_MAX = 2_000
SHOWN_MAX = 200
TABLES = (
    """CREATE TABLE IF NOT EXISTS setting_changes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, name TEXT NOT NULL, before TEXT, after TEXT, who TEXT NOT NULL, ip TEXT NOT NULL
    )""",
)
INSERT = "INSERT INTO setting_changes (at, name, before, after, who, ip) VALUES (?, ?, ?, ?, ?, ?)"
SURPLUS = "DELETE FROM setting_changes WHERE id <= (SELECT MAX(id) FROM setting_changes) - ?"
NEWEST = """SELECT id, at, name, before, after, who, ip, id = (SELECT MAX(id) FROM setting_changes last WHERE last.name = c.name)
    FROM setting_changes c ORDER BY id DESC LIMIT ?"""
ONE = """SELECT id, at, name, before, after, who, ip, id = (SELECT MAX(id) FROM setting_changes last WHERE last.name = c.name)
    FROM setting_changes c WHERE id = ?"""


class SettingChange(NamedTuple):
    """`before` and `after` are what was set here, None for nothing."""

    at: float
    name: str
    before: str | None
    after: str | None
    who: str
    ip: str


def keep(connection: sqlite3.Connection, entry: SettingChange) -> int:
    """In one transaction; the id it was given. Raises `sqlite3.Error`."""
    connection.execute("BEGIN IMMEDIATE")
    made = connection.execute(INSERT, entry).lastrowid
    connection.execute(SURPLUS, (KEPT_MAX,))
    connection.execute("COMMIT")
    return made or 0


def newest(connection: sqlite3.Connection) -> list[SettingChangeLine]:
    """The newest first."""
    return [_past(row) for row in connection.execute(NEWEST, (SHOWN_MAX,))]


def one(connection: sqlite3.Connection, change_id: int) -> SettingChangeLine | None:
    """None where there is none; ids are what SQLite counts with, and no larger."""
    if not 0 < change_id < 1 << 63:
        return None
    row = connection.execute(ONE, (change_id,)).fetchone()
    return _past(row) if row else None


def _past(row: Sequence[object]) -> SettingChangeLine:
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
