"""Holds the writer's connection, and notices when another program moves, deletes or replaces the files under it.

SQLite finds its write-ahead log by name. If another program deletes or replaces a file of an open database, commits
still succeed, but into files without a name. Then everything that the connection can read is copied. If another
database is at the path now, it gets the traces that it lacks; else the copy becomes the database, and the files that
are left are renamed.

Only SQLite opens these files: POSIX drops all locks of a process on a file when the process closes any descriptor of
it. Here files are only looked at by name.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

from herd.coordinator.storage.data_dir import make_private
from herd.coordinator.storage.database import (
    Damaged,
    copy_aside,
    is_damage,
    is_locked,
    open_for_writing,
    rename_damaged,
    set_aside,
)
from herd.coordinator.storage.reader import TraceReader
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES, NEWEST_TRACE, TraceRow

COPIES_MAX = 2
"""Databases to keep that were set aside because another program replaced files; older ones are deleted."""

_COLUMNS = ", ".join(TraceRow.__struct_fields__)
_ADD_MISSING_TRACES = f"""INSERT INTO request_traces ({_COLUMNS}) SELECT {_COLUMNS} FROM moved.request_traces AS theirs
    WHERE NOT EXISTS (SELECT 1 FROM main.request_traces AS ours WHERE ours.request_id = theirs.request_id
        AND ours.status = theirs.status AND ours.attempt IS theirs.attempt)
    ORDER BY theirs.id"""  # noqa: S608 - only constants
_ADD_MISSING_ROWS = (
    "INSERT OR IGNORE INTO decision_rules SELECT * FROM moved.decision_rules",
    "INSERT OR IGNORE INTO learnt SELECT * FROM moved.learnt",
    "INSERT OR IGNORE INTO journal_progress SELECT * FROM moved.journal_progress",
)

_SUFFIXES = ("", "-wal", "-shm")

Identity = tuple[int, int] | None
"""Device and inode of a file; None without a file."""

log = logging.getLogger("herd.store")


class CopyFailed(Exception):
    """The contents of a moved database could not be copied; the connection to it stays open."""


class LiveDatabase:
    """The connection of the only writer. Used on the writer's thread, except for the first `connection`."""

    def __init__(
        self, path: Path, busy_timeout_s: float, reader: TraceReader, opened: Callable[[sqlite3.Connection], None]
    ) -> None:
        """`opened` is called with each new connection, before it is used."""
        self.path = path
        self.open_connection: sqlite3.Connection | None = None
        self._busy_timeout_s = busy_timeout_s
        self._reader = reader
        self._opened = opened
        self._files: tuple[Identity, ...] = ()
        self._unmerged: Path | None = None
        """A copy whose traces are not yet in the database."""

    def connection(self) -> sqlite3.Connection:
        """The connection to the database that is at the path now.

        A damaged database is renamed and a new one is created. Raises `CopyFailed`, `NewerSchema`, `sqlite3.Error` or
        `OSError`.
        """
        if self.open_connection is not None and self._identities() != self._files:
            self._follow(self.open_connection)
        if self.open_connection is None:
            with self._reader.paused():
                self._open()
        assert self.open_connection is not None
        if self._unmerged is not None:
            self._merge(self.open_connection, self._unmerged)
        return self.open_connection

    def is_at_its_path(self) -> bool:
        """Whether the files of the open connection still have their names: then a commit is a commit to them."""
        return self.open_connection is not None and self._identities() == self._files

    def recover_from(self, error: Exception) -> None:
        """Leaves the transaction, and disconnects if a new connection may help. Raises `OSError`."""
        connection = self.open_connection
        if connection is None or isinstance(error, CopyFailed):
            return
        if isinstance(error, sqlite3.Error) and is_locked(error):
            # The connection is well. To open the database again would only give up the locks on it.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return
        self.disconnect()
        if isinstance(error, sqlite3.Error) and is_damage(error, self.path):
            self._rename_damaged(str(error))

    def disconnect(self) -> None:
        connection, self.open_connection = self.open_connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> None:
        make_private(self.path.parent)
        try:
            connection = open_for_writing(self.path, self._busy_timeout_s)
        except Damaged as error:
            self._rename_damaged(str(error))
            connection = open_for_writing(self.path, self._busy_timeout_s)
        self._opened(connection)
        self.open_connection, self._files = connection, self._identities()

    def _follow(self, old: sqlite3.Connection) -> None:
        """Copies what the connection can read, closes it, and makes the copy the database or leaves it to be merged."""
        try:
            if old.in_transaction:
                old.execute("ROLLBACK")
            copy = copy_aside(old, self.path, "moved")
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error, self.path):
                raise  # the contents are destroyed: the file is renamed, as any damaged one
            raise CopyFailed(f"the database was moved or deleted, and a copy cannot be made: {error}") from error
        # All connections of this process share SQLite's locks on a file, so the reader must close its own too.
        with self._reader.paused():
            self.disconnect()
            if self._identities()[0] not in (None, self._files[0]):
                # SQLite does not delete the log of a database that was replaced, and would apply it to the new one.
                self._set_aside_own_log()
                self._unmerged = copy
                return
            # A log of other files must not be applied to the copy. A program that still uses them may have added rows.
            set_aside(self.path, "left")
            copy.rename(self.path)
            self._open()
        _delete_surplus(self.path, "left")
        log.warning(
            "a file of the trace database was deleted while it was open: the database was restored; "
            "stop herd before you delete its files",
            extra={"path": str(self.path)},
        )

    def _set_aside_own_log(self) -> None:
        """Renames the write-ahead log that belonged to the moved database, if it is still there. Raises `OSError`."""
        parts = zip(_SUFFIXES, self._files, self._identities(), strict=True)
        set_aside(self.path, "left", [suffix for suffix, own, present in parts if suffix and own == present])
        _delete_surplus(self.path, "left")

    def _merge(self, connection: sqlite3.Connection, copy: Path) -> None:
        count = _add_missing(connection, copy)
        self._unmerged = None
        _delete_surplus(self.path, "moved")
        log.warning(
            "another program replaced the trace database while it was open: the missing traces were added to it",
            extra={"added": count, "copy": str(copy)},
        )

    def _rename_damaged(self, problem: str) -> None:
        renamed_to = rename_damaged(self.path)
        log.warning(
            "the trace database was damaged: it was renamed, and a new database was created",
            extra={"kept": str(renamed_to), "problem": problem},
        )

    def _identities(self) -> tuple[Identity, ...]:
        # SQLite deletes the log of an empty file when it opens it, so a truncated file counts as deleted.
        return tuple(_identity(self.path.with_name(self.path.name + suffix), int(not suffix)) for suffix in _SUFFIXES)


def _identity(path: Path, bytes_min: int = 0) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    if status.st_size < bytes_min:
        return None
    return status.st_dev, status.st_ino


def _add_missing(connection: sqlite3.Connection, copy: Path) -> int:
    """Adds the traces of the copy that the database lacks; returns how many. Raises `sqlite3.Error`."""
    connection.execute("ATTACH DATABASE ? AS moved", (str(copy),))
    try:
        connection.execute("BEGIN IMMEDIATE")
        newest_before = connection.execute(NEWEST_TRACE).fetchone()
        added = connection.execute(_ADD_MISSING_TRACES).rowcount
        connection.execute(INSERT_LATENCIES, newest_before)
        for statement in _ADD_MISSING_ROWS:
            connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("DETACH DATABASE moved")
    return added


def _delete_surplus(path: Path, label: str) -> None:
    """Deletes the oldest of the files that were set aside. Their names end with the time."""
    start = f"{path.name}.{label}-"
    stamps = sorted({file.name.removeprefix(start).split("-")[0] for file in path.parent.glob(start + "*")})
    for stamp in stamps[:-COPIES_MAX]:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(start + stamp + suffix).unlink(missing_ok=True)
