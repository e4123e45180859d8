"""Stores administrative changes in the trace database: who changed what, when, from which address."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

ROWS_MAX = 10_000
"""Maximum number of entries; the oldest are deleted first."""
LISTED_MAX = 1_000
TEXT_MAX_CHARS = 256


class AuditEntry(NamedTuple):
    """`at` is unix time. `what` is the action, `who` names the key or says that there was none, `about` is the
    target."""

    at: float
    what: str
    who: str
    ip: str
    about: str


INSERT = "INSERT INTO audit (at, what, who, ip, about) VALUES (?, ?, ?, ?, ?)"
DELETE_SURPLUS = "DELETE FROM audit WHERE id <= (SELECT MAX(id) FROM audit) - ?"
SELECT_NEWEST = "SELECT at, what, who, ip, about FROM audit ORDER BY id DESC LIMIT ?"


def insert_entries(connection: sqlite3.Connection, entries: Iterable[AuditEntry]) -> None:
    """Inserts the entries in one transaction. Raises `sqlite3.Error`; after a rollback nothing has changed."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, [(one.at, *(_text(text) for text in one[1:])) for one in entries])
    connection.execute(DELETE_SURPLUS, (ROWS_MAX,))
    connection.execute("COMMIT")


def recent_entries(connection: sqlite3.Connection, limit: int) -> list[dict[str, object]]:
    """The newest entries first. Raises `sqlite3.Error`."""
    rows = connection.execute(SELECT_NEWEST, (max(1, min(limit, LISTED_MAX)),))
    return [dict(zip(AuditEntry._fields, row, strict=True)) for row in rows]


def _text(value: object) -> str:
    return str(value)[:TEXT_MAX_CHARS].encode("utf-8", "replace").decode()
