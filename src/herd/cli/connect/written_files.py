"""Writes clients' files with a backup, and restores them (`herd connect NAME --undo`).

A record per client in the data folder has, for each file, where its backup is, whether herd created it, and the hash of
what herd wrote: a file that was changed since is restored only on request.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from herd.cli.client import CliError
from herd.files import PRIVATE_FILE, write_atomically

BACKUP = ".before-herd"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """One file as herd left it. `backup` is empty if herd created the file; `folders` are those that it created."""

    path: str
    backup: str
    digest: str
    folders: tuple[str, ...] = ()
    is_edited: bool = False
    """Whether it was changed between two times that herd wrote it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What herd wrote for one client. `key_id` is the API key that it created for it, or empty."""

    files: tuple[WrittenFile, ...] = ()
    key_id: str = ""
    url: str = ""


def record_path(data_dir: Path, client: str) -> Path:
    return data_dir / "connect" / f"{client}.json"


def read_record(path: Path) -> Written | None:
    """What was written for a client; None if nothing was, or the record is damaged."""
    try:
        found = json.loads(path.read_bytes())
        files = tuple(WrittenFile(**{**one, "folders": tuple(one["folders"])}) for one in found.pop("files"))
        return Written(files=files, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def read_text(path: Path) -> str:
    """The text of a file, empty if it does not exist. Raises CliError."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise CliError(f"{path} is not UTF-8 text", "it was not changed; correct it, or move it away") from None
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}", "it was not changed") from error


def write(record: Path, texts: dict[Path, str], key_id: str, url: str) -> Written:
    """Writes these files and the record. Raises CliError."""
    before = {one.path: one for one in (read_record(record) or Written()).files}
    try:
        files = tuple(_write(path, text, before.pop(str(path), None)) for path, text in texts.items())
        written = Written(files=(*files, *before.values()), key_id=key_id, url=url)
        write_atomically(record, json.dumps(asdict(written), indent=1).encode())
    except OSError as error:
        raise CliError(f"cannot write {error.filename}: {error.strerror}", "check its permissions") from error
    return written


def _write(path: Path, text: str, before: WrittenFile | None) -> WrittenFile:
    target = path.resolve()
    old = target.read_bytes() if target.exists() else None
    backup, folders, is_edited = "", _missing_folders(target), False
    if before is not None and (old is None) == (before.digest == ""):
        backup, folders = before.backup, before.folders
        is_edited = before.is_edited or (old is not None and _digest(old) != before.digest)
    elif old is not None:
        backup = str(target.with_name(target.name + BACKUP))
        write_atomically(Path(backup), old, PRIVATE_FILE)
    mode = stat.S_IMODE(target.stat().st_mode) if old is not None else PRIVATE_FILE
    data = text.encode()
    write_atomically(target, data, mode)
    return WrittenFile(path=str(path), backup=backup, digest=_digest(data), folders=folders, is_edited=is_edited)


def _missing_folders(path: Path) -> tuple[str, ...]:
    """The folders that writing this file creates, the innermost first."""
    return tuple(str(folder) for folder in path.parents if not folder.exists())


def undo(record: Path, is_forced: bool) -> tuple[list[str], Written]:
    """Restores every file of the record; one line for each of them. Raises CliError."""
    written = read_record(record)
    if written is None:
        raise CliError("herd has written nothing for this client here", "show all clients with: herd connect")
    changed = [one.path for one in written.files if _is_changed(one)]
    if changed and not is_forced:
        backups = ", ".join(one.backup for one in written.files if one.backup)
        raise CliError(
            f"{', '.join(changed)} has changed since herd wrote it",
            f"to drop these changes, add --force; the old contents are in {backups or 'no file: herd created it'}",
        )
    try:
        lines = [_restore(one) for one in written.files]
        record.unlink()
    except OSError as error:
        raise CliError(f"cannot restore {error.filename}: {error.strerror}", "check its permissions") from error
    return lines, written


def _is_changed(one: WrittenFile) -> bool:
    path = Path(one.path)
    return path.exists() and (one.is_edited or _digest(path.read_bytes()) != one.digest)


def _restore(one: WrittenFile) -> str:
    target = Path(one.path).resolve()
    if one.backup:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else PRIVATE_FILE
        write_atomically(target, Path(one.backup).read_bytes(), mode)
        Path(one.backup).unlink()
        return f"{one.path} is as it was before"
    target.unlink(missing_ok=True)
    for folder in map(Path, one.folders):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return f"{one.path} is removed: herd had created it"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
