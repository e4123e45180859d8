"""Stores which traces of a run's journal are in the database; it changes in the transaction that adds them."""

from __future__ import annotations

import sqlite3

NOTHING_LEFT = 2**62
"""The progress of a run whose journal was recovered."""

TABLES = ("CREATE TABLE IF NOT EXISTS journal_progress (run TEXT PRIMARY KEY, number INTEGER NOT NULL)",)
_ADVANCE = """INSERT INTO journal_progress VALUES (?, ?)
    ON CONFLICT (run) DO UPDATE SET number = MAX(number, excluded.number)"""
_SELECT = "SELECT number FROM journal_progress WHERE run = ?"
_DELETE = "DELETE FROM journal_progress WHERE run = ?"


def of_run(connection: sqlite3.Connection, run: str) -> int:
    """The number of the newest trace of the run that is in the database; 0 if there is none."""
    found = connection.execute(_SELECT, (run,)).fetchone()
    return int(found[0]) if found is not None else 0


def advance(connection: sqlite3.Connection, run: str, number: int) -> None:
    """The traces up to this number are in the database, once the transaction is committed."""
    connection.execute(_ADVANCE, (run, number))


def forget(connection: sqlite3.Connection, run: str) -> None:
    """The journal of the run was removed."""
    connection.execute(_DELETE, (run,))
