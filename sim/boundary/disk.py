"""A disk that fails: every write of SQLite and of the journal is counted, and may raise what a real one raises.

The files are real, in a folder of their own. After a kill the next process finds a copy of what had been written.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from herd.coordinator.storage import database
from herd.coordinator.storage.journal import files

_WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "CREATE", "REPLACE")
_CODES = {"full": sqlite3.SQLITE_FULL, "io_error": sqlite3.SQLITE_IOERR}
_TEXTS = {"full": "database or disk is full", "io_error": "disk I/O error"}
_ERRNOS = {"full": errno.ENOSPC, "io_error": errno.EIO}


class ProcessKilled(BaseException):
    """The process ends in the middle of a write."""


class Disk:
    """The data folder of the coordinator, through all its processes."""

    def __init__(self, folder: Path, template: Path) -> None:
        self._root, self._template = folder, template
        self._number = 0
        self.folder = folder / "0"
        self.folder.mkdir()
        shutil.copy(template, self.folder / database.DATABASE_NAME)
        self.failing = ""
        """What fails: "full" or "io_error"."""
        self.skip = 0
        """Writes that still succeed."""
        self.kills = False
        """The write after those ends the process."""
        self.has_failed = False
        """Whether a write of this process has failed."""
        self.has_lost_files = False
        """Whether another program has removed or replaced files since this process began."""
        self._connections: list[sqlite3.Connection] = []
        self._locking: sqlite3.Connection | None = None

    @property
    def path(self) -> Path:
        return self.folder / database.DATABASE_NAME

    # --- one process ends, the next begins ---

    def take_over(self) -> None:
        """The next process finds what the killed one had written; a transaction that was open is lost."""
        self.unlock()
        self._number += 1
        after = self._root / str(self._number)
        shutil.copytree(self.folder, after, ignore=shutil.ignore_patterns("*-shm", "coordinator.lock"))
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = after
        self.has_failed = self.has_lost_files = self.kills = False

    def close(self) -> None:
        self.unlock()
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    # --- faults ---

    def fail(self, what: str, skip: int) -> None:
        self.skip = skip
        self.has_lost_files = self.has_lost_files or what in ("deleted", "replaced", "wal_deleted")
        if what == "kills":
            self.kills = True
        elif what == "locked":
            self._lock()
        elif what == "deleted":
            self.path.unlink(missing_ok=True)
        elif what == "wal_deleted":
            self.path.with_name(self.path.name + "-wal").unlink(missing_ok=True)
        elif what == "replaced":
            other = self.path.with_name("other")
            shutil.copy(self._template, other)
            other.replace(self.path)
        else:
            self.failing = what

    def recover(self) -> None:
        self.failing = ""
        self.unlock()

    def _lock(self) -> None:
        locking = self._locking = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            locking.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self.unlock()

    def unlock(self) -> None:
        if self._locking is not None:
            self._locking.close()
            self._locking = None

    def count_write(self) -> str:
        """Called before each write: the kind of failure, or empty. Raises ProcessKilled."""
        if self.skip > 0:
            self.skip -= 1
            return ""
        if self.kills:
            self.kills = False
            raise ProcessKilled
        self.has_failed = self.has_failed or bool(self.failing)
        return self.failing

    # --- in place of the modules that the product uses ---

    def connect(self, path: Any, **options: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(path, factory=FailingConnection, **options)
        connection.disk = self
        self._connections.append(connection)
        return connection

    def write(self, descriptor: int, data: bytes) -> int:
        failing = self.count_write()
        if not failing:
            return os.write(descriptor, data)
        if self.skip % 2 == 0:
            return os.write(descriptor, data[: len(data) // 2])
        raise OSError(_ERRNOS[failing], _TEXTS[failing])

    def open_file(self, path: Any, flags: int, mode: int = 0o777) -> int:
        failing = self.count_write()
        if failing:
            raise OSError(_ERRNOS[failing], _TEXTS[failing])
        return os.open(path, flags, mode)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The product's storage uses this disk until the end of the block."""
        replaced = (
            (database, "sqlite3", _Replaced(sqlite3, connect=self.connect)),
            (files, "os", _Replaced(os, write=self.write, open=self.open_file)),
        )
        before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
        for module, name, other in replaced:
            setattr(module, name, other)
        try:
            yield
        finally:
            for module, name, original in before:
                setattr(module, name, original)
            self.close()


class FailingConnection(sqlite3.Connection):
    """A connection whose writes may fail. SQLite rolls back some transactions after an error, and keeps others open."""

    disk: Disk | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.lstrip()[:6].upper() in _WRITES:
            self._count_write()
        return super().execute(sql, *parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        self._count_write()
        return super().executemany(sql, parameters)

    def _count_write(self) -> None:
        failing = self.disk.count_write() if self.disk is not None else ""
        if not failing:
            return
        if self.in_transaction and self.total_changes % 2:
            super().execute("ROLLBACK")
        error = sqlite3.OperationalError(_TEXTS[failing])
        error.sqlite_errorcode = _CODES[failing]
        raise error


class _Replaced:
    """A module with some other functions."""

    def __init__(self, module: Any, **functions: Callable[..., Any]) -> None:
        self._module = module
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
