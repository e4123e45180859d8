"""Tests that no row is lost or doubled when another process locks, writes, deletes or replaces the database's files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from herd.coordinator.storage.live_database import COPIES_MAX
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.usage_queries import totals
from herd.coordinator.storage.writer import TraceStore
from recorded import a_record

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an open file can only be deleted on POSIX systems")
QUICK = StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0)

OTHER_PROGRAM = """
import os, shutil, sqlite3, sys
path = sys.argv[1]
connection = None
for line in sys.stdin:
    verb = line.strip()
    if verb == "open":
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("SELECT COUNT(*) FROM request_traces").fetchone()
    elif verb == "lock":
        connection.execute("BEGIN IMMEDIATE")
    elif verb == "write":
        connection.execute("INSERT INTO audit (at, what, who, ip, about) VALUES (1, 'x', 'x', 'x', 'x')")
    elif verb == "commit":
        connection.execute("COMMIT")
    elif verb == "checkpoint":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    elif verb == "vacuum":
        connection.execute("VACUUM")
    elif verb == "close":
        connection.close()
    elif verb.startswith("delete"):
        os.unlink(path + verb.removeprefix("delete"))
    elif verb == "replace":
        shutil.copy(path, path + ".new")
        os.replace(path + ".new", path)
    elif verb == "empty":
        os.unlink(path)
        made = sqlite3.connect(path)
        made.execute("CREATE TABLE other (one INTEGER)")
        made.close()
    elif verb == "truncate":
        os.truncate(path, 0)
    elif verb == "halve":
        os.truncate(path, os.path.getsize(path) // 2)
    elif verb == "garble":
        with open(path, "r+b") as file:
            file.write(b"not a database " * 1000)
    elif verb == "overwrite":
        made = sqlite3.connect(path + ".other")
        made.execute("CREATE TABLE other (one INTEGER)")
        made.close()
        shutil.copyfile(path + ".other", path)
    print("done", flush=True)
"""

Other = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path) -> Iterator[TraceStore]:
    opened = TraceStore(QUICK, folder)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def other(store: TraceStore, folder: Path) -> Iterator[Other]:
    """Another process, which does to the database what a test asks for."""
    command = [sys.executable, "-c", OTHER_PROGRAM, str(folder / "latency.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def tell(*verbs: str) -> None:
            for verb in verbs:
                stdin.write(verb + "\n")
                stdin.flush()
                assert stdout.readline() == "done\n", verb

        yield tell
        stdin.close()


def recorded(store: TraceStore, count: int, start: int = 0) -> list[str]:
    names = [f"r{number}" for number in range(start, start + count)]
    for name in names:
        store.record(a_record(name))
    return names


def names_on_disk(folder: Path) -> list[str]:
    """As another process sees them."""
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "assert c.execute('PRAGMA integrity_check').fetchone() == ('ok',); "
        "print(*(name for (name,) in c.execute('SELECT request_id FROM request_traces ORDER BY id')))"
    )
    command = [sys.executable, "-c", program, str(folder / "latency.db")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def recorded_around(store: TraceStore, other: Other, *verbs: str) -> list[str]:
    """Ten rows that are saved before the other process acts, and ten after it."""
    expected = recorded(store, 10)
    assert store.flush()
    other(*verbs)
    expected += recorded(store, 10, start=10)
    assert store.flush()
    return expected


def test_a_lock_by_another_process_costs_no_row(store: TraceStore, folder: Path, other: Other) -> None:
    expected = recorded(store, 10)
    assert store.flush()
    assert store.read(totals)["total_requests"] == 10
    other("open", "lock", "write")
    expected += recorded(store, 10, start=10)
    assert not store.flush() and not store.flush()
    other("commit", "close")
    expected += recorded(store, 10, start=20)
    assert store.flush()
    assert names_on_disk(folder) == expected
    assert store.state.saved == 30


def test_random_use_by_another_process_neither_loses_nor_doubles_a_row(
    store: TraceStore, folder: Path, other: Other
) -> None:
    rng, expected, is_open, is_locked = Random(4), list[str](), False, False
    for round_number in range(60):
        expected += recorded(store, rng.randrange(20), start=round_number * 100)
        verbs = ["write", "commit"] if is_locked else ["lock", "close", "checkpoint", "vacuum"] if is_open else ["open"]
        verb = rng.choice(verbs)
        other(verb)
        is_open = verb != "close"
        is_locked = verb in ("lock", "write")
        store.flush()
        store.read(totals)
    if is_locked:
        other("commit")
    assert store.flush()
    assert names_on_disk(folder) == expected
    assert store.state.saved == len(expected)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("is_other_open", [False, True])
def test_a_deleted_file_is_noticed_at_the_next_write_and_no_saved_row_is_lost(
    store: TraceStore, folder: Path, other: Other, suffix: str, is_other_open: bool
) -> None:
    expected = recorded(store, 10)
    assert store.flush()
    store.read(totals)
    if is_other_open:
        other("open")
    other("delete" + suffix)
    expected += recorded(store, 10, start=10)
    assert store.flush()
    assert store.state.saved == 20
    assert sorted(names_on_disk(folder)) == sorted(expected)
    assert store.read(totals)["total_requests"] == 20


def test_deleting_all_files_at_once_loses_no_saved_row(store: TraceStore, folder: Path, other: Other) -> None:
    expected = recorded_around(store, other, "delete", "delete-wal", "delete-shm")
    assert names_on_disk(folder) == expected


@pytest.mark.parametrize("how", ["replace", "empty"])
def test_a_replaced_database_gets_the_rows_that_it_lacks(
    store: TraceStore, folder: Path, other: Other, how: str
) -> None:
    expected = recorded_around(store, other, how)
    assert sorted(names_on_disk(folder)) == sorted(expected)
    assert store.read(totals)["total_requests"] == 20


def test_copies_of_replaced_databases_are_limited(store: TraceStore, folder: Path, other: Other) -> None:
    for number in range(COPIES_MAX + 2):
        recorded(store, 1, start=number)
        assert store.flush()
        other("replace")
    assert store.flush()
    copies = list(folder.glob("latency.db.moved-*"))
    assert len(copies) == COPIES_MAX
    assert all(copy.stat().st_mode & 0o077 == 0 for copy in copies)


def test_a_move_between_commit_and_check_is_repaired_before_the_rows_count_as_saved(
    store: TraceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: the file disappears after the row was committed to it."""
    insert = store._insert_batch

    def insert_and_lose(batch: list[tuple[object, float, str]]) -> None:
        insert(batch)  # type: ignore[arg-type]
        (folder / "latency.db").unlink()
        monkeypatch.setattr(store, "_insert_batch", insert)

    monkeypatch.setattr(store, "_insert_batch", insert_and_lose)
    expected = recorded(store, 5)
    assert store.flush()
    assert store.state.saved == 5
    assert names_on_disk(folder) == expected


def test_rows_of_a_deleted_database_wait_while_it_cannot_be_copied(
    store: TraceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = recorded(store, 5)
    assert store.flush()
    (folder / "latency.db").unlink()
    expected += recorded(store, 5, start=5)

    def full(*_: object) -> Path:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("herd.coordinator.storage.live_database.copy_aside", full)
        assert not store.flush()
        assert "cannot be made" in store.state.problem
    assert store.flush()
    assert names_on_disk(folder) == expected


def test_no_file_of_the_database_is_opened_by_python(
    store: TraceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POSIX drops a process's locks on a file when the process closes any descriptor of it."""
    opened: list[str] = []

    def note(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and is_noting:
            opened.append(os.fsdecode(str(args[0])))

    is_noting = True
    sys.addaudithook(note)
    other = sqlite3.connect(folder / "latency.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    recorded(store, 3)
    assert not store.flush()
    other.execute("ROLLBACK")
    other.close()
    assert store.flush()
    store._database.disconnect()
    recorded(store, 3)
    assert store.flush()
    is_noting = False
    assert [path for path in opened if "latency.db" in path] == []


def test_the_log_of_a_replaced_database_does_not_damage_the_new_one(
    store: TraceStore, folder: Path, tmp_path: Path
) -> None:
    """SQLite leaves the log of a database that was moved, and would apply it to the file that is there now."""
    expected = recorded(store, 1)
    assert store.flush()
    store.read(totals)
    copy = sqlite3.connect(tmp_path / "other.db")
    with closing(sqlite3.connect(folder / "latency.db")) as source, closing(copy):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("CREATE TABLE filling (text TEXT)")
        copy.executemany("INSERT INTO filling VALUES (?)", [("x" * 3000,)] * 50)
        copy.commit()
    expected += recorded(store, 200, start=1)
    assert store.flush()
    (tmp_path / "other.db").replace(folder / "latency.db")
    expected += recorded(store, 5, start=300)
    assert store.flush()
    assert sorted(names_on_disk(folder)) == sorted(expected)
    with closing(sqlite3.connect(folder / "latency.db")) as found:
        assert found.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert found.execute("SELECT COUNT(*) FROM filling").fetchone() == (50,)


@pytest.mark.parametrize("verb", ["truncate", "halve", "garble", "overwrite"])
def test_a_file_destroyed_in_place_costs_no_row_of_the_log_and_none_that_follows(
    store: TraceStore, folder: Path, other: Other, verb: str
) -> None:
    expected = recorded_around(store, other, verb)
    assert names_on_disk(folder) == expected


@pytest.mark.parametrize("verb", ["truncate", "halve", "garble", "overwrite"])
def test_after_a_checkpoint_a_file_destroyed_in_place_costs_only_what_it_had(
    store: TraceStore, folder: Path, other: Other, verb: str
) -> None:
    recorded(store, 10)
    assert store.flush()
    other("open", "checkpoint", "close", verb)
    later = recorded(store, 10, start=10)
    store.flush()
    assert store.flush()
    later += recorded(store, 10, start=20)
    assert store.flush()
    assert names_on_disk(folder) == later
    assert verb not in ("halve", "garble") or list(folder.glob("latency.db.corrupt-*"))
