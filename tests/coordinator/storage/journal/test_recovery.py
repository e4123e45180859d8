"""Tests that every admitted request has exactly one final row after the coordinator was killed."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from herd.coordinator.storage.journal import progress, recovery
from herd.coordinator.storage.journal.recovery import LOST_STATUS
from herd.coordinator.storage.queries import recent_traces
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.usage_queries import totals
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.request import Counters, Outcome
from recorded import a_record

QUICK = StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0, batch_rows=10_000)

KILLED = """
import os, signal, sys
from pathlib import Path
from random import Random
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.request import Outcome
from recorded import a_record
folder, seed, batch_rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = Random(seed)
store = TraceStore(StoreSettings(flush_interval_s=0.01, batch_rows=batch_rows), folder)
store.open()
running, count = [], rng.randrange(50, 500)
for number in range(count):
    name = f"{seed}-{number}"
    store.admitted(a_record(name).request, 100.0)
    os.write(1, f"admitted {name}\\n".encode())
    running.append(name)
    while len(running) > 5:
        name = running.pop(rng.randrange(len(running)))
        if rng.random() < 0.3:
            store.record(a_record(name, Outcome.RETRIED))
        store.record(a_record(name))
        os.write(1, f"ended {name}\\n".encode())
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path, seed: int, batch_rows: int = 16) -> tuple[set[str], set[str]]:
    """A store is killed under load: the requests that were admitted, and those that had ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(seed), str(batch_rows)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    lines = [line.split() for line in died.stdout.splitlines()]
    return {name for verb, name in lines if verb == "admitted"}, {name for verb, name in lines if verb == "ended"}


def a_store(folder: Path) -> TraceStore:
    store = TraceStore(QUICK, folder)
    store.open()
    return store


def final_rows(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "latency.db")) as connection:
        return connection.execute(
            "SELECT request_id, status FROM request_traces WHERE status <> 'retried' ORDER BY request_id"
        ).fetchall()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("batch_rows", [1, 16, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_every_admitted_request_has_one_row_after_a_kill(tmp_path: Path, seed: int, batch_rows: int) -> None:
    admitted, ended = killed(tmp_path, seed, batch_rows)
    a_store(tmp_path).close()
    expected = sorted((name, "completed" if name in ended else LOST_STATUS) for name in admitted)
    assert final_rows(tmp_path) == expected
    a_store(tmp_path).close()
    assert final_rows(tmp_path) == expected
    assert list((tmp_path / "journal").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_two_kills_before_the_database_can_be_written_lose_nothing(tmp_path: Path) -> None:
    admitted, ended = killed(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "latency.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        more, more_ended = killed(tmp_path, 2)
        store = a_store(tmp_path)
        assert not store.flush() and "locked" in store.state.problem
        other.execute("ROLLBACK")
    assert store.flush()
    store.close()
    ended |= more_ended
    assert final_rows(tmp_path) == sorted(
        (name, "completed" if name in ended else LOST_STATUS) for name in admitted | more
    )


def unsaved(folder: Path) -> TraceStore:
    """A store whose process ends before its rows were written."""
    store = a_store(folder)
    counters = Counters(40, 10, 8, 0.25, 0.5, 1.0, "stop")
    store.record(a_record("ended", Outcome.RETRIED, tags=("web",)))
    store.record(a_record("ended", tags=("web",), counters=counters))
    store.admitted(a_record("running").request, 100.0)
    return store


def after_a_crash(folder: Path) -> Path:
    """A copy of the data folder, as a crash would leave it."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    return copy


def test_recovered_rows_are_like_those_that_were_written(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = unsaved(folder)
    copy = after_a_crash(folder)
    store.close()
    recovered = a_store(copy)
    rows = {str(row["status"]): row for row in recovered.read(recent_traces)}
    written = {str(row["status"]): row for row in a_read(folder)}
    assert set(rows) == {"retried", "completed", LOST_STATUS}
    for name in ("retried", "completed"):
        different = {key for key, value in rows[name].items() if value != written[name][key]}
        assert different <= {"id", "score", "scores_breakdown", "candidates"}, different
    lost = rows[LOST_STATUS]
    assert (lost["request_id"], lost["error_message"], lost["node_id"]) == ("running", recovery.LOST_MESSAGE, "")
    assert recovered.read(totals)["failed_count"] == 1
    recovered.close()


def a_read(folder: Path) -> list[dict[str, object]]:
    store = a_store(folder)
    try:
        return store.read(recent_traces)
    finally:
        store.close()


@pytest.mark.parametrize("forgets", ["the files", "the progress"])
def test_a_crash_during_the_recovery_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgets: str
) -> None:
    folder = tmp_path / "data"
    store = unsaved(folder)
    copy = after_a_crash(folder)
    store.close()
    with monkeypatch.context() as patched:
        if forgets == "the files":
            patched.setattr(Path, "unlink", lambda *_, **__: None)
        patched.setattr(progress, "forget", lambda *_: None)
        a_store(copy).close()
    a_store(copy).close()
    assert len(final_rows(copy)) == 2
    assert not any(path.name.endswith(".journal") for path in (copy / "journal").iterdir())


def test_a_clean_stop_leaves_no_journal(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    record = a_record()
    store.admitted(record.request, 100.0)
    store.record(record)
    store.close()
    assert list((tmp_path / "journal").iterdir()) == []
    a_store(tmp_path).close()
    assert final_rows(tmp_path) == [("r1", "completed")]
