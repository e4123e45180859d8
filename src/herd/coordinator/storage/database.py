"""How the trace database is opened: privately, checked, brought up to date, and set aside when it is broken. Writes no rows.

Nothing that is found is ever deleted: before its shape changes a copy is made beside it, and a damaged file is renamed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from herd.coordinator.storage.data_dir import make_private_file
from herd.coordinator.storage.schema import SCHEMA_VERSION, apply, is_new, steps_needed, version_of
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES, INSERT_TRACE, TraceRow

DATABASE_NAME = "latency.db"
CHECKED_MAX_BYTES = 64 * 1024 * 1024
"""Larger databases are not read through at start, which would take seconds; damage is then noticed when it is met."""
KEEP_THE_LOG_SMALL = "PRAGMA journal_size_limit = 16777216"
"""Bytes: after a burst the write-ahead log is cut back to this."""
READ_MAX_STEPS = 20_000_000
"""Virtual machine steps after which one question is given up: some seconds, far more than any of ours needs."""
TRIED_INSERTS = (
    ("EXPLAIN " + INSERT_TRACE, len(TraceRow._fields)),
    ("EXPLAIN " + INSERT_LATENCIES, INSERT_LATENCIES.count("?")),
)
"""Explained, not run: they fail where a table lacks a column that no step can add."""

log = logging.getLogger("herd.store")


class NewerSchema(Exception):
    """The database was written by a later version of this program: it is left alone."""


class Damaged(Exception):
    """The file is no database, or no longer one."""


def open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """The connection of the one writer: autocommit, WAL, up to date.

    Raises `NewerSchema`, `Damaged`, `sqlite3.Error` (full, read-only, locked) or `OSError`; never changes a file it refuses.
    """
    make_private_file(path)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    connection.text_factory = _legible
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if is_damage(error, path):
            raise Damaged(str(error)) from error
        raise
    except UnicodeDecodeError as error:
        connection.close()
        raise Damaged("not even its names can be read") from error
    except (NewerSchema, Damaged, OSError):
        connection.close()
        raise
    return connection


def open_for_reading(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that cannot write, and gives up a question that takes too long. Raises `sqlite3.Error`."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = _legible
    return connection


def set_aside(path: Path) -> Path:
    """Renames a broken database, with what belongs to it, and says to what. Raises `OSError`."""
    kept = path.with_name(f"{path.name}.corrupt-{_stamp()}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept


def is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether this error means that the file is broken, rather than that the disk is full or somebody holds a lock."""
    kind = _primary_code(error)
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    if kind == sqlite3.SQLITE_READONLY:
        # A flipped byte in the header makes SQLite take a file for one of a future format, which it will only read.
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return False


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; -1 for errors that Python made up itself."""
    extended: object = vars(error).get("sqlite_errorcode", -1)
    return extended & 0xFF if isinstance(extended, int) and extended >= 0 else -1


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = version_of(connection)
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{path} was written by a newer version of herd (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(KEEP_THE_LOG_SMALL)
    if path.stat().st_size <= CHECKED_MAX_BYTES:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise Damaged(str(verdict).splitlines()[0])
    _migrate(connection, path)
    for insert, width in TRIED_INSERTS:
        try:
            connection.execute(insert, (None,) * width)
        except sqlite3.OperationalError as error:
            raise Damaged(f"its tables are not ours: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    steps = steps_needed(connection)
    if not steps:
        return
    if not is_new(connection):
        backup = _back_up(connection, path)
        log.info("the trace database gets a new shape, a copy of the old one is kept", extra={"backup": str(backup)})
    for step in steps:
        apply(connection, step)


def _back_up(connection: sqlite3.Connection, path: Path) -> Path:
    """A whole copy, including what is still in the write-ahead log; it has its name only when it is complete."""
    backup = path.with_name(f"{path.name}.v{version_of(connection)}-{_stamp()}.bak")
    part = backup.with_name(backup.name + ".part")
    make_private_file(part)
    try:
        copy = sqlite3.connect(part)
        try:
            connection.backup(copy)
        finally:
            copy.close()
        part.replace(backup)
    except (sqlite3.Error, OSError):
        part.unlink(missing_ok=True)
        raise
    return backup


def _legible(text: bytes) -> str:
    """One unreadable letter in one old row must not hide all the others."""
    return text.decode("utf-8", "replace")


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
