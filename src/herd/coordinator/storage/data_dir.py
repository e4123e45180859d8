"""Makes the data folder private and locks it, so that one coordinator at a time uses it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_NAME = "coordinator.lock"
_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600
_LOCKED_BYTE = 1 << 20
"""Windows locks are mandatory: the locked byte is behind the process id, so that others can read the id."""


class DataDirInUse(Exception):
    """Another coordinator uses the same data folder. The message is one line for people."""


class DataDirLock:
    """Held while the coordinator runs; the operating system releases it when the process ends, even after a crash."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def release(self) -> None:
        self._file.close()


def make_private(folder: Path) -> None:
    """Creates the folder, or removes the permissions of group and others from an existing one.

    Raises `OSError` when it cannot be created. An existing folder of another owner is used unchanged.
    """
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    _restrict(folder, _PRIVATE_FOLDER)


def make_private_file(path: Path) -> None:
    """Creates the file empty if it is missing, so that other users can never open it. Raises `OSError`.

    An existing file is never opened: closing it would drop this process's locks on it, also those of SQLite.
    """
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _PRIVATE_FILE))
    _restrict(path, _PRIVATE_FILE)


def lock_folder(folder: Path) -> DataDirLock:
    """Raises `DataDirInUse` when another process holds the lock, `OSError` when the lock file cannot be created."""
    path = folder / LOCK_NAME
    make_private_file(path)
    file = path.open("r+", encoding="ascii", errors="replace")
    try:
        _lock(file)
    except OSError:
        holder = file.read(20).strip()
        file.close()
        process = f"process {holder}" if holder.isdigit() else "another process"
        raise DataDirInUse(
            f"another coordinator ({process}) already uses {folder}; stop it, "
            "or start this one with another folder: herd --data-dir FOLDER"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return DataDirLock(file)


def _restrict(path: Path, mode: int) -> None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(mode)
    except OSError:
        # The path belongs to another user, or the file system has no modes: its owner decides who may read it.
        return


if sys.platform == "win32":

    def _lock(file: IO[str]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
