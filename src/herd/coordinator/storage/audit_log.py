"""Who changed what, from where: how it is kept in the trace database and read again. Decides nothing; holds no secret."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

ROWS_MAX = 10_000
"""Entries kept; the oldest go first."""
SHOWN_MAX = 1_000
TEXT_MAX_CHARS = 256


class AuditEntry(NamedTuple):
    """`at` in unix seconds; `who` is a key's name, "a login" or "this machine"; `about` is what it was done to."""

    at: float
    what: str
    who: str
    ip: str
    about: str


INSERT = "INSERT INTO audit (at, what, who, ip, about) VALUES (?, ?, ?, ?, ?)"
SURPLUS = "DELETE FROM audit WHERE id <= (SELECT MAX(id) FROM audit) - ?"
NEWEST = "SELECT at, what, who, ip, about FROM audit ORDER BY id DESC LIMIT ?"


def insert(connection: sqlite3.Connection, entries: Iterable[AuditEntry]) -> None:
    """In one transaction. Raises `sqlite3.Error`; then nothing was changed once it is rolled back."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(INSERT, [(one.at, *(_text(text) for text in one[1:])) for one in entries])
    connection.execute(SURPLUS, (ROWS_MAX,))
    connection.execute("COMMIT")


def select_newest(connection: sqlite3.Connection, limit: int) -> list[dict[str, object]]:
    """The newest first. Raises `sqlite3.Error`."""
    rows = connection.execute(NEWEST, (max(1, min(limit, SHOWN_MAX)),))
    return [dict(zip(AuditEntry._fields, row, strict=True)) for row in rows]


def _text(value: object) -> str:
    return str(value)[:TEXT_MAX_CHARS].encode("utf-8", "replace").decode()
