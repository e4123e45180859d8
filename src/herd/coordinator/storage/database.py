"""Opens the trace database: checks it, migrates its schema, and renames a damaged file.

No file is ever deleted: before a migration the database is copied, and a damaged file is renamed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from herd.coordinator.storage.data_dir import make_private_file
from herd.coordinator.storage.schema import SCHEMA_VERSION, apply, is_new, steps_needed, version_of
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES, INSERT_TRACE, TraceRow

DATABASE_NAME = "latency.db"
CHECKED_MAX_BYTES = 64 * 1024 * 1024
"""Larger databases are not checked at the start, which would take seconds; damage is then found when a query
reads the damaged part."""
LIMIT_WAL = "PRAGMA journal_size_limit = 16777216"
"""After a burst the write-ahead log is truncated to this many bytes."""
READ_MAX_STEPS = 60_000_000
"""A query is interrupted after this many steps of SQLite's virtual machine: about two seconds, far more than any of
herd's queries needs. The longest is that for budgets at the first start after an update: a second for half a million
traces that are not summed up yet."""
EXPLAINED_INSERTS = (
    ("EXPLAIN " + INSERT_TRACE, len(TraceRow.__struct_fields__)),
    ("EXPLAIN " + INSERT_LATENCIES, INSERT_LATENCIES.count("?")),
)
"""Explained, not run: they fail if a table lacks a column that no migration adds."""

log = logging.getLogger("herd.store")


class NewerSchema(Exception):
    """A later version of herd wrote the database; it is not changed."""


class Damaged(Exception):
    """The file is not a database, or it is corrupt."""


def open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Returns the connection of the only writer, in autocommit mode with a write-ahead log, after migrations.

    Raises `NewerSchema`, `Damaged`, `sqlite3.Error` (disk full, read-only, locked) or `OSError`; the file is then
    unchanged.
    """
    make_private_file(path)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    connection.text_factory = _decode
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if is_damage(error, path):
            raise Damaged(str(error)) from error
        raise
    except UnicodeDecodeError as error:
        connection.close()
        raise Damaged("the names of its tables are not valid UTF-8") from error
    except (NewerSchema, Damaged, OSError):
        connection.close()
        raise
    return connection


def open_for_reading(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that cannot write. Raises `sqlite3.Error`."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = _decode
    return connection


def rename_damaged(path: Path) -> Path:
    """Renames a damaged database with its journal files, and returns the new path. Raises `OSError`."""
    return set_aside(path, "corrupt")


def set_aside(path: Path, label: str, suffixes: Iterable[str] = ("", "-wal", "-shm")) -> Path:
    """Renames the database and its journal files, as far as they exist, to `PATH.LABEL-TIME`. Raises `OSError`."""
    renamed = path.with_name(f"{path.name}.{label}-{_timestamp()}")
    for suffix in suffixes:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(renamed.with_name(renamed.name + suffix))
    return renamed


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another connection holds a lock that this one needs."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether this error means that the file is damaged, and not that the disk is full or the database locked."""
    kind = _primary_code(error)
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    if kind == sqlite3.SQLITE_READONLY:
        # A flipped byte in the header makes SQLite treat the file as one of a future format, which it opens read-only.
        return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return False


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; -1 for errors that Python raised itself."""
    extended: object = vars(error).get("sqlite_errorcode", -1)
    return extended & 0xFF if isinstance(extended, int) and extended >= 0 else -1


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = version_of(connection)
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{path} was written by a newer version of herd (schema {version}; this version supports {SCHEMA_VERSION})"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(LIMIT_WAL)
    if path.stat().st_size <= CHECKED_MAX_BYTES:
        result = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if result != "ok":
            raise Damaged(result.splitlines()[0])
    try:
        _migrate(connection, path)
    except sqlite3.OperationalError as error:
        if "no such column" not in str(error):
            raise
        raise Damaged(f"its tables are not those of herd: {error}") from error
    for insert, width in EXPLAINED_INSERTS:
        try:
            connection.execute(insert, (None,) * width)
        except sqlite3.OperationalError as error:
            raise Damaged(f"its tables are not those of herd: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    steps = steps_needed(connection)
    if not steps:
        return
    if not is_new(connection):
        backup = _back_up(connection, path)
        log.info("the trace database is being migrated; a copy of the old one was made", extra={"backup": str(backup)})
    for step in steps:
        apply(connection, step)


def copy_aside(connection: sqlite3.Connection, path: Path, label: str) -> Path:
    """Copies the database with its write-ahead log to `PATH.LABEL-TIME`, as the connection sees it. The copy gets its
    name only when it is complete. Raises `sqlite3.Error` and `OSError`."""
    return _copy_to(connection, path.with_name(f"{path.name}.{label}-{_timestamp()}"))


def _back_up(connection: sqlite3.Connection, path: Path) -> Path:
    return _copy_to(connection, path.with_name(f"{path.name}.v{version_of(connection)}-{_timestamp()}.bak"))


def _copy_to(connection: sqlite3.Connection, target: Path) -> Path:
    part = target.with_name(target.name + ".part")
    make_private_file(part)
    try:
        copy = sqlite3.connect(part)
        try:
            connection.backup(copy)
            # The copy of a database with a write-ahead log expects one too; a single file is easier to move.
            copy.execute("PRAGMA journal_mode = DELETE")
        finally:
            copy.close()
        part.replace(target)
    except (sqlite3.Error, OSError):
        part.unlink(missing_ok=True)
        raise
    return target


def _decode(text: bytes) -> str:
    """Invalid UTF-8 in one old row must not make the other rows unreadable."""
    return text.decode("utf-8", "replace")


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
