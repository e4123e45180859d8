"""Writes a support bundle: one archive with settings, versions, findings and logs, secrets masked (`herd diagnose`).

The sources contain no prompts: settings, versions, findings of `herd doctor`, the coordinator's answers about its
fleet, the ends of the logs and the state of the database. Every part is masked before it is written. Nothing is sent
anywhere.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import sqlite3
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from rich.text import Text

from herd import __version__
from herd.build_form import build_form
from herd.cli.client import CliError, CoordinatorClient
from herd.cli.doctor import Setup, examine
from herd.cli.terminal import console, show
from herd.coordinator.storage.database import DATABASE_NAME
from herd.trust.masking import MASK, mask_secrets

LOG_TAIL_MAX_BYTES = 1024 * 1024
"""The end of each log is enough, and small enough for an e-mail."""
FILES_LISTED_MAX = 500
COORDINATOR_PATHS = ("/fleet/status", "/fleet/limits", "/fleet/queue", "/fleet/nodes", "/dashboard/api/latencies")
LOGS = ("herd.jsonl", "herd-node.jsonl")
README = f"""\
Support bundle of herd, created on this machine by `herd diagnose`. It contains no prompts and no
answers, because none are stored; keys, codes, cookies and signatures are masked as {MASK}. It contains names of
machines, models and folders, and addresses in your network: review it before you share it.
"""


def diagnose(setup: Setup, settings: Mapping[str, object], file: Path | None, as_json: bool) -> None:
    """Writes the archive. Raises CliError if it cannot be written."""
    path = file or Path(time.strftime("herd-diagnosis-%Y%m%d-%H%M%S.tar.gz"))
    with console.status("collecting", spinner="line"):
        parts = list(collected(setup, settings))
    write(path, parts)
    written = {"file": str(path), "bytes": path.stat().st_size, "parts": [name for name, _ in parts]}
    show(written, as_json, lambda _: _lines(path, parts))


def collected(setup: Setup, settings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The name and the masked text of each part."""
    yield "README.txt", README
    values: list[tuple[str, object]] = [
        ("about.json", {**_about(), "database": _database(setup.data_dir), "files": list(_files(setup.data_dir))}),
        ("settings.json", settings),
        ("findings.json", [finding.to_json() for finding in examine(setup)]),
        *(
            (f"coordinator{path.replace('/', '-')}.json", _answer(setup.coordinator, path))
            for path in COORDINATOR_PATHS
        ),
    ]
    for name, value in values:
        yield name, mask_secrets(json.dumps(value, indent=1, default=str, ensure_ascii=False))
    for name in LOGS:
        if tail := _tail(setup.data_dir / "logs" / name):
            yield f"logs/{name}", mask_secrets(tail)


def write(path: Path, parts: Sequence[tuple[str, str]]) -> None:
    """Writes a file that only its owner can read; never overwrites a file. Raises CliError."""
    try:
        opened = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise CliError(f"{path} exists already", "use another name: herd diagnose FILE") from None
    except OSError as error:
        raise CliError(
            f"{path} cannot be written: {error.strerror or error}", "use another path: herd diagnose FILE"
        ) from error
    with os.fdopen(opened, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in parts:
            data = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{path.name.partition('.')[0]}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))


def _lines(path: Path, parts: Iterable[tuple[str, str]]) -> Iterator[Text]:
    yield Text.assemble("written: ", (str(path), "bold"))
    yield Text(", ".join(name for name, _ in parts), "dim")
    yield Text(
        "Keys and secrets are masked, and prompts are not included. Names and addresses are included: "
        "review the file before you share it."
    )


def _about() -> dict[str, object]:
    packages = {found.name: found.version for found in importlib.metadata.distributions() if found.name}
    return {
        "herd": __version__,
        "form": build_form(),
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "packages": dict(sorted(packages.items())),
    }


def _database(data_dir: Path) -> dict[str, object]:
    """The schema version and the number of rows, or the problem if the database cannot be read."""
    path = data_dir / DATABASE_NAME
    if not path.exists():
        return {"problem": f"{path} does not exist"}
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2.0)) as connection:
            return {
                "schema_version": connection.execute("PRAGMA user_version").fetchone()[0],
                "traces": connection.execute("SELECT COUNT(*) FROM request_traces").fetchone()[0],
                "journal": connection.execute("PRAGMA journal_mode").fetchone()[0],
            }
    except (sqlite3.Error, ValueError) as error:
        return {"problem": f"{path}: {error}"}


def _files(data_dir: Path) -> Iterator[dict[str, object]]:
    """Names, sizes and permissions of the files; contents are never read here."""
    for number, path in enumerate(sorted(data_dir.rglob("*")) if data_dir.is_dir() else []):
        if number >= FILES_LISTED_MAX:
            return
        try:
            found = path.lstat()
        except OSError:
            continue
        yield {"path": str(path.relative_to(data_dir)), "bytes": found.st_size, "mode": oct(found.st_mode & 0o777)}


def _answer(coordinator: CoordinatorClient, path: str) -> object:
    try:
        return coordinator.get(path)
    except CliError as error:
        return {"problem": error.problem}


def _tail(path: Path) -> str:
    """The last complete lines; empty if there is no such log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_MAX_BYTES))
            data = file.read(LOG_TAIL_MAX_BYTES)
    except OSError:
        return ""
    whole = data if size <= LOG_TAIL_MAX_BYTES else data.partition(b"\n")[2]
    return whole.decode("utf-8", "replace")
