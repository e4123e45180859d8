"""Tests that all traces reach the database, whatever happens to the disk, and that recording never blocks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from herd.coordinator.storage import audit_log, trace_rows, writer
from herd.coordinator.storage.data_dir import DataDirInUse, lock_folder
from herd.coordinator.storage.journal import progress
from herd.coordinator.storage.journal.files import Journal
from herd.coordinator.storage.queries import recent_traces
from herd.coordinator.storage.retention import Retention
from herd.coordinator.storage.rollups import advance
from herd.coordinator.storage.schema import SCHEMA_VERSION, STEPS
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.trace_rows import TraceRow, trace_row
from herd.coordinator.storage.usage_queries import totals
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.commands import Record
from herd.core.state.decision import Decision, Rejected
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Counters, Failure, FailureKind, Outcome, RequestKind
from herd.errors import Unavailable
from recorded import SIGNALS, a_record

QUICK = StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0, trim_interval_s=0.0)
"""A flush or a full batch causes a write, never the passing of time."""

LAST_TRACE = (
    "SELECT request_id, model, node_id, score, scores_breakdown FROM request_traces ORDER BY timestamp DESC LIMIT 1"
)
SPEED = """SELECT node_id, model, COUNT(*), AVG(latency_ms),
    AVG(COALESCE(completion_tokens,0)*1000.0/NULLIF(latency_ms,0))
    FROM request_traces WHERE status='completed' GROUP BY node_id, model"""


class Clock:
    """Both clocks, set by the test."""

    def __init__(self) -> None:
        self.mono, self.unix = 100.0, 1_700_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path, clock: Clock) -> Iterator[TraceStore]:
    opened = a_store(folder, clock)
    yield opened
    opened.close()


def a_store(folder: Path, clock: Clock | None = None, settings: StoreSettings = QUICK) -> TraceStore:
    clock = clock or Clock()
    store = TraceStore(settings, folder, wall=lambda: clock.unix, monotonic=lambda: clock.mono)
    store.open()
    return store


def on_disk(folder: Path, sql: str = "SELECT * FROM request_traces ORDER BY id") -> list[sqlite3.Row]:
    connection = sqlite3.connect(folder / "latency.db")
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# --- the contents of a row ---


def test_a_completed_request_is_one_row_with_all_its_values(store: TraceStore, folder: Path) -> None:
    store.record(a_record("r1", tags=("user:ann", "web"), counters=Counters(40, 10, 8, 0.25, 0.5, 1.0, "stop")))
    assert store.flush()
    (row,) = on_disk(folder)
    assert row["request_id"] == "r1"
    assert (row["model"], row["original_model"]) == ("llama3:latest", "llama3")
    assert (row["node_id"], row["status"], row["score"]) == ("studio", "completed", 60.5)
    assert json.loads(row["scores_breakdown"]) == dict.fromkeys(SIGNALS, 5.25)
    assert (row["latency_ms"], row["time_to_first_token_ms"], row["attempt_ms"]) == (2000.0, 750.0, 1500.0)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (40, 10, 8)
    assert (row["load_ms"], row["prefill_ms"], row["decode_ms"], row["held_ms"]) == (250.0, 500.0, 1000.0, 500.0)
    assert (row["finish_reason"], row["estimated_tokens"], row["size_bytes"]) == ("stop", 40, 900)
    assert json.loads(row["tags"]) == ["user:ann", "web"]
    assert (row["client_ip"], row["original_format"], row["kind"], row["stream"]) == (
        "192.168.1.7",
        "ollama",
        "chat",
        1,
    )
    assert (row["retry_count"], row["fallback_used"], row["error_message"]) == (0, 0, None)


def test_a_row_has_every_candidate_with_points_or_the_reason_of_its_rejection(store: TraceStore, folder: Path) -> None:
    record = a_record()
    assert record.decision is not None
    record.decision.scored[0].expected_s = {"wait": 0.25}
    store.record(record)
    assert store.flush()
    candidates = json.loads(on_disk(folder)[0]["candidates"])
    assert [c["node_id"] for c in candidates["scored"]] == ["studio", "spare-0", "spare-1"]
    assert candidates["scored"][0]["expected_s"] == {"wait": 0.25}
    assert candidates["rejected"] == [{"node_id": "tiny", "filter": "memory", "reason": "needs 42.5 GB, 11.0 GB free"}]
    assert "left_out" not in candidates


def test_with_many_candidates_the_best_are_stored_and_the_rest_is_counted() -> None:
    record = a_record()
    assert record.decision is not None
    record.decision.rejected = [Rejected(NodeId(f"n{n}"), "memory", "no") for n in range(10)]
    row = trace_row(record, 0.0, candidates_max=5)
    kept = json.loads(row.candidates or "")
    assert (len(kept["scored"]), len(kept["rejected"]), kept["left_out"]) == (3, 2, 8)
    assert "pruned" not in kept
    record.decision.pruned, record.decision.unlisted = 900, 30
    kept = json.loads(trace_row(record, 0.0, candidates_max=5).candidates or "")
    assert (kept["left_out"], kept["pruned"]) == (38, 900)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_written_under_its_own_name(store: TraceStore, folder: Path, outcome: Outcome) -> None:
    store.record(a_record(outcome=outcome))
    assert store.flush()
    assert [row["status"] for row in on_disk(folder)] == [outcome.value]


def test_a_retried_attempt_counts_its_own_time_and_names_its_failure(store: TraceStore, folder: Path) -> None:
    store.record(a_record(outcome=Outcome.RETRIED, failure=Failure(kind=FailureKind.RESET), error="connection reset"))
    assert store.flush()
    (row,) = on_disk(folder)
    assert (row["latency_ms"], row["failure"], row["error_message"]) == (1500.0, "reset", "connection reset")


def test_a_request_that_no_node_could_serve_is_written_without_a_node(store: TraceStore, folder: Path) -> None:
    store.record(a_record(outcome=Outcome.REJECTED, node=None, error="no node has it"))
    assert store.flush()
    (row,) = on_disk(folder)
    assert (row["node_id"], row["score"], row["scores_breakdown"], row["attempt"]) == ("", None, None, None)
    assert json.loads(row["candidates"])["rejected"][0]["filter"] == "memory"


def test_only_completed_requests_are_latency_observations(store: TraceStore, folder: Path) -> None:
    for outcome in Outcome:
        store.record(a_record(outcome=outcome))
    store.record(a_record(kind=RequestKind.INFO))
    assert store.flush()
    (observation,) = on_disk(folder, "SELECT * FROM latency_observations")
    assert (observation["node_id"], observation["model_name"], observation["latency_ms"]) == (
        "studio",
        "llama3:latest",
        1500.0,
    )
    assert (observation["tokens_generated"], observation["prompt_tokens"], observation["completion_tokens"]) == (
        10,
        40,
        10,
    )


def test_invalid_values_of_nodes_and_clients_do_not_cost_a_row(store: TraceStore, folder: Path) -> None:
    nonsense = Counters(prompt_tokens=10**30, completion_tokens=-5, load_s=float("nan"), decode_s=float("inf"))
    store.record(
        a_record("odd\ud800", tags=("tag\udfff",), counters=nonsense, error="x" * 10_000, requested_name="m\ud800")
    )
    assert store.flush()
    (row,) = on_disk(folder)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (trace_rows.COUNT_MAX, 0)
    assert (row["load_ms"], row["decode_ms"]) == (None, None)
    assert len(row["error_message"]) == trace_rows.TEXT_MAX_CHARS
    assert json.loads(row["tags"]) == ["tag?"]


def test_a_record_without_a_valid_row_is_counted_and_does_not_block_others(store: TraceStore, folder: Path) -> None:
    store.record(a_record("bad", counters=Counters(prompt_tokens=float("nan"))))  # type: ignore[arg-type]
    store.record(a_record("good"))
    assert store.flush()
    assert [row["request_id"] for row in on_disk(folder)] == ["good"]
    assert store.state.unusable >= 1


def test_the_insert_names_exactly_the_fields_of_the_row() -> None:
    columns = trace_rows.INSERT_TRACE.split("(")[1].split(")")[0].replace("\n", " ").split(",")
    assert [column.strip() for column in columns] == list(TraceRow.__struct_fields__)
    assert trace_rows.INSERT_TRACE.count("?") == len(TraceRow.__struct_fields__)
    assert trace_rows.INSERT_TRACES.count("?") == len(TraceRow.__struct_fields__) * trace_rows.ROWS_PER_INSERT
    columns, chosen = re.split(r"\bSELECT\b|\bFROM\b", trace_rows.INSERT_LATENCIES)[:2]
    assert columns.count(",") == chosen.count(",")


@pytest.mark.parametrize(
    "count", [1, trace_rows.ROWS_PER_INSERT - 1, trace_rows.ROWS_PER_INSERT, 2 * trace_rows.ROWS_PER_INSERT + 3]
)
def test_any_number_of_rows_is_written_in_order(store: TraceStore, folder: Path, count: int) -> None:
    names = [f"r{n}" for n in range(count)]
    for name in names:
        store.record(a_record(name))
    assert store.flush()
    assert [row["request_id"] for row in on_disk(folder)] == names
    assert on_disk(folder, "SELECT COUNT(*) FROM latency_observations")[0][0] == count


def test_the_published_queries_run_unchanged(store: TraceStore, folder: Path, clock: Clock) -> None:
    store.record(a_record("bad", Outcome.FAILED, at=101.0))
    for n in range(3):
        clock.unix += 1.0
        store.record(a_record(f"r{n}", at=102.0 + n))
    assert store.flush()
    assert tuple(on_disk(folder, LAST_TRACE)[0])[:4] == ("r2", "llama3:latest", "studio", 60.5)
    assert [tuple(row)[:4] for row in on_disk(folder, SPEED)] == [("studio", "llama3:latest", 3, 3000.0)]


def test_no_text_of_a_prompt_can_reach_a_row(store: TraceStore, folder: Path) -> None:
    """The core's records have no field for text of prompts or answers, and every text column is listed here."""
    from_core = {name for kind in (Record, Decision, Counters) for name in kind.__dataclass_fields__}
    assert not from_core & {"prompt", "messages", "content", "text", "payload", "body", "answer", "response"}
    store.record(a_record())
    assert store.flush()
    texts = {name for name, value in dict(on_disk(folder)[0]).items() if isinstance(value, str)}
    assert texts <= {
        "request_id",
        "model",
        "original_model",
        "node_id",
        "scores_breakdown",
        "status",
        "client_ip",
        "original_format",
        "kind",
        "policy",
        "candidates",
    }


# --- clocks ---


def test_a_row_has_the_wall_time_of_its_end_even_if_written_late(store: TraceStore, folder: Path, clock: Clock) -> None:
    store.record(a_record("before"))
    clock.unix += 3600.0  # The clock was changed, or a locked database delayed the row.
    store.record(a_record("after"))
    assert store.flush()
    assert [row["timestamp"] for row in on_disk(folder)] == [1_700_000_000.0, 1_700_003_600.0]


# --- recording never blocks ---


def test_a_full_batch_is_written_without_a_flush(folder: Path) -> None:
    store = a_store(folder, settings=StoreSettings(flush_interval_s=3600.0, batch_rows=8))
    for n in range(64):
        store.record(a_record(f"r{n}"))
    store.close()
    assert len(on_disk(folder)) == 64


def test_100000_records_without_a_disk_stay_within_the_ring(folder: Path) -> None:
    folder.mkdir()
    (folder / "latency.db").mkdir()  # A folder cannot be opened as a file.
    store = a_store(folder)
    record = a_record()
    for _ in range(100_000):
        store.record(record)
    state = store.state
    assert state.waiting <= QUICK.ring_rows + QUICK.batch_rows
    assert state.dropped == 100_000 - state.waiting
    assert state.failing_since is not None and state.saved == 0
    store.close(timeout_s=5.0)


def test_recording_before_opening_and_after_closing_raises_nothing(folder: Path, clock: Clock) -> None:
    store = TraceStore(QUICK, folder)
    store.record(a_record())
    store.close()
    store.record(a_record())
    store.close()
    assert store.state.saved == 0


# --- failures of the disk ---


def test_rows_wait_in_memory_while_another_program_locks_the_database(store: TraceStore, folder: Path) -> None:
    other = sqlite3.connect(folder / "latency.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for n in range(10):
        store.record(a_record(f"r{n}"))
    assert not store.flush()
    assert store.state.waiting == 10 and "locked" in store.state.problem
    assert store.state.failing_since == 1_700_000_000.0
    other.execute("ROLLBACK")
    other.close()
    assert store.flush()
    assert [row["request_id"] for row in on_disk(folder)] == [f"r{n}" for n in range(10)]
    assert (store.state.failing_since, store.state.problem, store.state.dropped) == (None, "", 0)


def test_the_age_of_the_oldest_waiting_row_is_known(store: TraceStore, folder: Path, clock: Clock) -> None:
    assert store.state.oldest_s == 0.0
    with closing(sqlite3.connect(folder / "latency.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(3):
            store.record(a_record())
            clock.unix += 20.0
        assert not store.flush()
        assert store.state.oldest_s == 60.0
        other.execute("ROLLBACK")
    assert store.flush()
    assert store.state.oldest_s == 0.0


def test_a_full_disk_loses_only_the_oldest_beyond_the_ring_and_writing_resumes(folder: Path) -> None:
    settings = StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0, ring_rows=20, batch_rows=5)
    store = a_store(folder, settings=settings)
    store.record(a_record("first"))
    assert store.flush()
    pages = store._database.connection().execute("PRAGMA page_count").fetchone()[0]
    store._database.connection().execute(f"PRAGMA max_page_count = {pages}")
    big = a_record(tags=tuple("t" * 900 for _ in range(trace_rows.TAGS_MAX)))
    store.record(big)
    assert not store.flush()
    assert "full" in store.state.problem
    for n in range(40):
        store.record(a_record(f"r{n}"))
    # The limit belongs to the old connection; the next attempt opens a new one, as after freeing disk space.
    assert store.flush()
    kept = [row["request_id"] for row in on_disk(folder)]
    assert kept[-1] == "r39" and store.state.dropped + len(kept) == 42
    store.close()


SMALL_FILES = """
import resource, sys
from pathlib import Path
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from recorded import a_record
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
store = TraceStore(StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0), Path(sys.argv[1]))
store.open()
for n in range(2000):
    store.record(a_record(f"r{n}"))
assert not store.flush(), "two thousand rows fitted into 300 kB"
assert store.state.problem and store.state.failing_since is not None
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.flush(), store.state
assert store.state.saved == 2000 and store.state.failing_since is None, store.state
store.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_recording_stops_while_files_may_not_grow_and_then_resumes(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", SMALL_FILES, str(folder)], check=True, env=_environment(), timeout=60)
    assert len(on_disk(folder)) == 2000


READ_ONLY = """
import os, sys, tempfile
from pathlib import Path
from herd.coordinator.storage.usage_queries import totals
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from recorded import a_record
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    if sys.argv[1] == "with a database":
        store = TraceStore(StoreSettings(), folder)
        store.open()
        store.close()
    for path in [*folder.iterdir(), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        # Root may write anywhere; another user cannot write to a read-only folder.
        os.seteuid(65534)
    store = TraceStore(StoreSettings(busy_timeout_s=0.0), folder)
    store.open()
    store.record(a_record())
    assert not store.flush()
    assert store.state.waiting == 1 and store.state.problem, store.state
    store.close()
    assert not list(folder.glob("*.corrupt-*")), "a read-only file is not a broken one"
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o755)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folder modes are POSIX")
@pytest.mark.parametrize("folder_is", ["empty", "with a database"])
def test_a_read_only_folder_is_reported_and_requests_are_served_without_recording(folder_is: str) -> None:
    subprocess.run([sys.executable, "-c", READ_ONLY, folder_is], check=True, env=_environment(), timeout=60)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}


# --- crashes ---

KILLED_AT_COMMIT = """
import os, signal, sys
from pathlib import Path
from herd.coordinator.storage import writer as under_test
from herd.coordinator.storage.store_settings import StoreSettings
from recorded import a_record
kill_at, folder = int(sys.argv[2]), Path(sys.argv[1])
store = under_test.TraceStore(StoreSettings(batch_rows=4, flush_interval_s=60.0), folder)
store.open()
for n in range(10_000):
    for m in range(4):
        store.record(a_record(f"r{n}-{m}"))
    assert store.flush()
    os.write(1, b"%d\\n" % n)
    if n == kill_at:
        for m in range(4):
            store.record(a_record(f"late-{m}"))
        store._flush_now.set()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("commit", [0, 1, 2, 5, 13, 40])
def test_a_kill_at_any_commit_loses_no_flushed_row(folder: Path, commit: int) -> None:
    died = subprocess.run(
        [sys.executable, "-c", KILLED_AT_COMMIT, str(folder), str(commit)],
        check=False,
        capture_output=True,
        env=_environment(),
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    acknowledged = len(died.stdout.split())
    store = a_store(folder)
    assert store.state.problem == ""
    counted = store.read(totals)["total_requests"]
    store.close()
    assert acknowledged == commit + 1
    assert counted in (4 * acknowledged, 4 * acknowledged + 4)
    assert on_disk(folder, "PRAGMA integrity_check")[0][0] == "ok"
    assert not list(folder.glob("*.corrupt-*"))


@pytest.mark.parametrize(
    "seed", [*range(25), 39, 54, 327, 559]
)  # The last four damage names so that they are not UTF-8.
def test_a_damaged_database_is_renamed_or_still_usable(
    folder: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = Random(seed)
    store = a_store(folder)
    for n in range(50):
        store.record(a_record(f"r{n}"))
    store.close()
    path = folder / "latency.db"
    data = bytearray(path.read_bytes())
    # Damage in the header and the first pages has the worst effect.
    for _ in range(rng.choice([1, 20, 400])):
        data[rng.randrange(rng.choice([20, 100, 4096, len(data)]))] = rng.randrange(256)
    data = data[: rng.choice([len(data), len(data), rng.randrange(len(data))])]
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "herd.store"):
        store = a_store(folder)
        store.record(a_record("after"))
        written = store.flush() or store.flush()
    state = store.state
    readable = written and [row["request_id"] for row in store.read(recent_traces, 1)]
    store.close()
    if "newer version" in state.problem:
        return  # The damage looks like a later schema version: the file stays unchanged, and the problem says so.
    assert written and readable, f"seed {seed}: {state}"
    if list(folder.glob("latency.db.corrupt-*")):
        assert "damaged" in caplog.text, f"seed {seed}"


def test_damage_found_while_running_creates_a_new_database_and_loses_no_waiting_row(folder: Path) -> None:
    store = a_store(folder)
    for n in range(200):
        store.record(a_record(f"r{n}"))
    assert store.flush()
    store._database.disconnect()
    (folder / "latency.db").write_bytes(b"this was a database once" * 1000)
    (folder / "latency.db-wal").unlink(missing_ok=True)
    store.record(a_record("after"))
    assert store.flush() or store.flush()
    assert [row["request_id"] for row in store.read(recent_traces)] == ["after"]
    store.close()
    assert len(list(folder.glob("latency.db.corrupt-*"))) == 1


# --- databases of other programs and versions ---

UPSTREAM = """
CREATE TABLE request_traces (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, model TEXT NOT NULL, original_model TEXT NOT NULL,
    node_id TEXT NOT NULL, score REAL, scores_breakdown TEXT, status TEXT NOT NULL, latency_ms REAL,
    time_to_first_token_ms REAL, prompt_tokens INTEGER, completion_tokens INTEGER, retry_count INTEGER DEFAULT 0,
    fallback_used INTEGER DEFAULT 0, excluded_nodes TEXT, client_ip TEXT, original_format TEXT, error_message TEXT,
    timestamp REAL NOT NULL{newer});
CREATE TABLE latency_observations (
    id INTEGER PRIMARY KEY AUTOINCREMENT, node_id TEXT NOT NULL, model_name TEXT NOT NULL, latency_ms REAL NOT NULL,
    tokens_generated INTEGER, timestamp REAL NOT NULL);
CREATE INDEX idx_traces_timestamp ON request_traces(timestamp);
INSERT INTO request_traces (request_id, model, original_model, node_id, score, scores_breakdown, status, latency_ms,
    completion_tokens, timestamp) VALUES ('old-1', 'llama3:latest', 'llama3', 'mac', 71.0, '{{"thermal": 50.0}}',
    'completed', 1200.0, 60, 1699999000.0);
INSERT INTO latency_observations (node_id, model_name, latency_ms, timestamp)
    VALUES ('mac', 'llama3', 1200.0, 1699999000.0);
"""
UPSTREAM_INSERT = """INSERT INTO request_traces (request_id, model, original_model, node_id, status, timestamp)
    VALUES ('back', 'm', 'm', 'mac', 'completed', 1)"""


def an_upstream_database(folder: Path, newer_columns: str = "") -> None:
    folder.mkdir()
    connection = sqlite3.connect(folder / "latency.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(UPSTREAM.format(newer=newer_columns))
    connection.close()


@pytest.mark.parametrize(
    "newer_columns", ["", ", tags TEXT", ", tags TEXT, finish_reason TEXT, estimated_tokens INTEGER"]
)
def test_a_database_of_ollama_herd_is_migrated_without_loss(folder: Path, newer_columns: str) -> None:
    an_upstream_database(folder, newer_columns)
    store = a_store(folder)
    store.record(a_record("new"))
    assert store.flush()
    assert [row["request_id"] for row in store.read(recent_traces)] == ["new", "old-1"]
    store.close()
    assert [row["score"] for row in on_disk(folder)] == [71.0, 60.5]
    assert on_disk(folder, "PRAGMA user_version")[0][0] == SCHEMA_VERSION
    connection = sqlite3.connect(folder / "latency.db")
    connection.execute(UPSTREAM_INSERT)  # ollama-herd can still write to it.
    connection.close()
    (backup,) = folder.glob("latency.db.v0-*.bak")
    kept = sqlite3.connect(backup)
    assert kept.execute("SELECT request_id FROM request_traces").fetchall() == [("old-1",)]
    kept.close()
    assert stat.S_IMODE(backup.stat().st_mode) & 0o077 == 0


def test_a_database_with_a_foreign_table_of_our_name_is_renamed(folder: Path) -> None:
    folder.mkdir()
    connection = sqlite3.connect(folder / "latency.db")
    connection.executescript("CREATE TABLE request_traces (timestamp, request_id, node_id, model)")
    connection.close()
    store = a_store(folder)
    store.record(a_record())
    assert store.flush()
    store.close()
    assert len(list(folder.glob("latency.db.corrupt-*"))) == 1


def test_a_current_database_is_opened_without_a_copy(folder: Path) -> None:
    a_store(folder).close()
    a_store(folder).close()
    assert not list(folder.glob("*.bak*"))


def test_a_new_database_has_every_table_and_index(folder: Path) -> None:
    a_store(folder).close()
    names = {row["name"] for row in on_disk(folder, "SELECT name FROM sqlite_master")}
    assert {"request_traces", "latency_observations", "benchmark_runs"} <= names
    assert {"idx_traces_timestamp", "idx_traces_request_id", "idx_traces_node_model"} <= names
    assert STEPS[-1].version == SCHEMA_VERSION
    assert [step.set_version for step in STEPS] == [f"PRAGMA user_version = {step.version}" for step in STEPS]


def test_a_migration_step_that_fails_midway_changes_nothing(folder: Path) -> None:
    an_upstream_database(folder)
    connection = sqlite3.connect(folder / "latency.db")
    # A view with the name of a new table makes the last statements of the step fail.
    connection.execute("CREATE VIEW benchmark_runs AS SELECT 1 AS timestamp")
    connection.commit()
    connection.close()
    before = [tuple(row) for row in on_disk(folder, "SELECT sql FROM sqlite_master ORDER BY name")]
    store = a_store(folder)
    assert "views may not be indexed" in store.state.problem
    store.close()
    assert [tuple(row) for row in on_disk(folder, "SELECT sql FROM sqlite_master ORDER BY name")] == before
    assert on_disk(folder, "PRAGMA user_version")[0][0] == 0


def test_a_database_of_a_later_version_is_read_but_never_written(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = a_store(folder)
    store.record(a_record("kept"))
    store.close()
    connection = sqlite3.connect(folder / "latency.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (folder / "latency.db").read_bytes()
    with caplog.at_level(logging.WARNING, "herd.store"):
        store = a_store(folder)
    store.record(a_record("lost"))
    assert not store.flush()
    assert [row["request_id"] for row in store.read(recent_traces)] == ["kept"]
    assert (store.state.dropped, store.state.waiting) == (1, 0)
    assert "newer version of herd (schema 99" in store.state.problem
    assert "traces are not being recorded" in caplog.text
    store.close()
    assert (folder / "latency.db").read_bytes() == before


# --- access to the folder ---


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_only_the_owner_can_access_folder_and_files(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "latency.db").touch(mode=0o644)
    (folder / "latency.db").chmod(0o644)
    store = a_store(folder)
    store.record(a_record())
    assert store.flush()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {"latency.db", "latency.db-wal", "latency.db-shm", "coordinator.lock"} <= set(modes)
    assert stat.S_IMODE((folder / "journal").stat().st_mode) == 0o700
    assert any(name.endswith(".journal") for name in modes)
    assert set(modes.values()) == {0o600}, modes
    store.close()


def test_a_second_coordinator_on_the_folder_fails_with_one_line(store: TraceStore, folder: Path) -> None:
    with pytest.raises(DataDirInUse) as caught:
        lock_folder(folder)
    message = str(caught.value)
    assert str(folder) in message and str(os.getpid()) in message and "\n" not in message


SECOND = """
import sys
from pathlib import Path
from herd.coordinator.storage.data_dir import DataDirInUse
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
try:
    TraceStore(StoreSettings(), Path(sys.argv[1])).open()
except DataDirInUse as busy:
    sys.exit(str(busy))
"""


def test_a_second_process_is_refused_and_the_folder_is_free_again_after_the_first(
    store: TraceStore, folder: Path
) -> None:
    command = [sys.executable, "-c", SECOND, str(folder)]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment(), timeout=60)
    assert refused.returncode == 1 and "already uses" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    store.close()
    a_store(folder).close()


# --- deletion and queries ---


def test_rows_are_deleted_by_age_and_beyond_the_maximum_number(folder: Path, clock: Clock) -> None:
    settings = StoreSettings(
        busy_timeout_s=0.0, flush_interval_s=60.0, trim_interval_s=0.0, retention_days=1.0, rows_max=1200
    )
    store = a_store(folder, clock, settings)
    for n in range(10):
        store.record(a_record(f"old-{n}"))
    assert store.flush()
    clock.mono += 2 * 86_400
    clock.unix += 2 * 86_400
    for n in range(2000):
        store.record(a_record(f"new-{n}"))
    assert store.flush()
    store.close()
    kept = [row["request_id"] for row in on_disk(folder)]
    assert kept == [f"new-{n}" for n in range(800, 2000)]
    assert on_disk(folder, "SELECT COUNT(*) FROM latency_observations")[0][0] == 1200


def test_queries_run_in_a_thread_and_cannot_write(store: TraceStore) -> None:
    async def ask() -> list[object]:
        return [row["request_id"] for row in await store.ask(recent_traces, limit=5)]

    store.record(a_record("r1"))
    assert store.flush()
    assert asyncio.run(ask()) == ["r1"]
    with pytest.raises(Unavailable, match="readonly"):
        store.read(lambda connection: connection.execute("DELETE FROM request_traces"))
    assert store.read(totals)["total_requests"] == 1


def test_an_endless_query_is_interrupted(store: TraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.coordinator.storage.reader.READ_MAX_STEPS", 100_000)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(Unavailable, match="interrupted"):
        store.read(lambda connection: connection.execute(endless).fetchall())
    assert store.read(totals)["total_requests"] == 0


def test_a_query_of_a_database_that_cannot_be_opened_raises_unavailable(folder: Path) -> None:
    folder.mkdir()
    (folder / "latency.db").mkdir()
    store = a_store(folder)
    with pytest.raises(Unavailable, match="cannot be read"):
        store.read(totals)
    store.close(timeout_s=5.0)


def test_models_and_nodes_named_like_sql_are_stored_as_names(store: TraceStore, folder: Path) -> None:
    evil = "x'); DROP TABLE request_traces; --"
    store.record(a_record(evil, node=evil, model=ModelName(evil), tags=(evil,), client_ip=evil))
    assert store.flush()
    assert [row["node_id"] for row in on_disk(folder)] == [evil]


def test_a_database_with_many_traces_to_sum_up_delays_no_row_no_job_and_no_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def endless(connection: sqlite3.Connection, now: float) -> bool:
        nonlocal steps
        steps += 1
        return True

    monkeypatch.setattr("herd.coordinator.storage.rollups.advance.advance", endless)
    done: list[str] = []
    store = a_store(folder, settings=StoreSettings(rollup_interval_s=0.0))
    store.record(a_record("row"))
    store.write(lambda connection: done.append("job"))
    assert store.flush() and steps
    assert done == ["job"]
    store.close()
    assert [row["request_id"] for row in on_disk(folder)] == ["row"]
    assert not list((folder / "journal").iterdir())


# --- bugs ---


class Bug(Exception):
    """An exception that nothing expects."""


def broken(*_: object, **__: object) -> None:
    raise Bug("broken on purpose")


def test_an_exception_in_a_record_costs_only_its_own_row(
    store: TraceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writer.trace_row
    monkeypatch.setattr(
        writer, "trace_row", lambda record, *more: broken() if record.at == 2.0 else real(record, *more)
    )
    for at in (1.0, 2.0, 3.0):
        store.record(a_record(f"r{at}", at=at))
    assert store.flush()
    assert len(on_disk(folder)) == 2 and store.state.unusable == 1


@pytest.mark.parametrize("where", [(advance, "advance"), (audit_log, "insert_entries"), (progress, "advance")])
def test_the_thread_survives_an_exception_and_writes_what_waits(
    store: TraceStore, folder: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*where, broken)
        store.record(a_record("r1"))
        store.audit(audit_log.AuditEntry(1.0, "x", "x", "x", "x"))
        assert not store.flush() and store.state.problem == "broken on purpose"
    store.record(a_record("r2"))
    assert store.flush()
    assert len(on_disk(folder)) == 2 and not store.state.problem


def test_a_job_that_raises_is_dropped_and_the_next_one_runs(store: TraceStore) -> None:
    done: list[str] = []
    store.write(broken)
    store.write(lambda _: done.append("next"))
    store.flush()
    assert store.flush() and done == ["next"]


def test_an_exception_in_the_journal_does_not_reach_the_event_loop(
    store: TraceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "_encoded", broken)
    store.record(a_record("r1"))
    assert store.flush() and len(on_disk(folder)) == 1


def test_a_problem_that_is_gone_is_no_longer_reported_although_nothing_waits(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    store.record(a_record("r1"))
    with monkeypatch.context() as patch:
        patch.setattr(Retention, "trim", fails)
        assert not store.flush() and store.state.problem == "disk I/O error"
    assert store.flush() and store.state.failing_since is None
