"""Whose the data folder is: makes it private and lets one coordinator in. Knows nothing of what is kept there."""

from __future__ import annotations

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
"""Windows locks are mandatory: the byte that is locked lies behind the number that others may want to read."""


class DataDirInUse(Exception):
    """Another coordinator uses the same data folder. The message is the one line a person needs."""


class DataDirLock:
    """Held while the coordinator runs; the operating system lets go of it when the process dies, however it dies."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def release(self) -> None:
        self._file.close()


def make_private(folder: Path) -> None:
    """Creates the folder, readable by its owner alone, and closes one that was open to others.

    Raises `OSError` when it cannot be created. A folder that exists and belongs to somebody else is used as it is.
    """
    folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    _restrict(folder, _PRIVATE_FOLDER)


def make_private_file(path: Path) -> None:
    """Creates the file empty if it is missing, so that nobody else can ever open it. Raises `OSError`."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, _PRIVATE_FILE))
    except PermissionError:
        if not path.exists():
            raise
    _restrict(path, _PRIVATE_FILE)


def lock_folder(folder: Path) -> DataDirLock:
    """Raises `DataDirInUse` when another process holds the lock, `OSError` when no lock file can be made."""
    path = folder / LOCK_NAME
    make_private_file(path)
    file = path.open("r+", encoding="ascii", errors="replace")
    try:
        _lock(file)
    except OSError:
        holder = file.read(20).strip()
        file.close()
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise DataDirInUse(
            f"another coordinator ({who}) already uses {folder}: stop it, or give this one its own FLEET_DATA_DIR"
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
        # Somebody else's, or a file system without modes: then its owner decides who may read.
        return


if sys.platform == "win32":

    def _lock(file: IO[str]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
