"""Tests that a jump of the wall clock deletes no row early, and that old rows are deleted nevertheless."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from herd.coordinator.storage import learned_state
from herd.coordinator.storage.retention import DAY_S, TRUST_CLOCK_AFTER_S, Retention
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.learned_values import LearnedValue
from recorded import a_record

SETTINGS = StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0, trim_interval_s=0.0, retention_days=30.0)
JUMPS_S = (-50 * 365 * DAY_S, -400 * DAY_S, -7200.0, 7200.0, 400 * DAY_S, 50 * 365 * DAY_S)


class Clock:
    """A wall clock that can jump, and a monotonic clock that cannot."""

    def __init__(self) -> None:
        self.monotonic_s, self.jump_s = 100.0, 0.0

    def pass_time(self, seconds: float) -> None:
        self.monotonic_s += seconds

    def wall(self) -> float:
        return 1_700_000_000.0 + self.monotonic_s + self.jump_s

    def open_store(self, folder: Path) -> TraceStore:
        store = TraceStore(SETTINGS, folder, wall=self.wall, monotonic=lambda: self.monotonic_s)
        store.open()
        return store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[TraceStore]:
    opened = clock.open_store(tmp_path)
    yield opened
    opened.close()


def record(store: TraceStore, name: str) -> None:
    store.record(a_record(name))
    assert store.flush()


def kept(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "latency.db")) as connection:
        traces = [name for (name,) in connection.execute("SELECT request_id FROM request_traces ORDER BY id")]
        assert connection.execute("SELECT COUNT(*) FROM latency_observations").fetchone() == (len(traces),)
    return traces


@pytest.mark.parametrize("jump_s", JUMPS_S)
@pytest.mark.parametrize("lasts_s", [3.0, 3600.0, TRUST_CLOCK_AFTER_S - 60])
def test_no_row_is_deleted_by_a_jump_and_none_after_it(
    store: TraceStore, clock: Clock, tmp_path: Path, jump_s: float, lasts_s: float
) -> None:
    record(store, "before")
    clock.jump_s = jump_s
    record(store, "at the jump")
    clock.pass_time(lasts_s)
    record(store, "late in the jump")
    clock.jump_s = 0.0
    record(store, "after")
    clock.pass_time(2 * DAY_S)
    record(store, "days later")
    assert kept(tmp_path) == ["before", "at the jump", "late in the jump", "after", "days later"]


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_jump_that_stays_deletes_no_row_of_this_run(
    store: TraceStore, clock: Clock, tmp_path: Path, jump_s: float
) -> None:
    record(store, "before")
    clock.jump_s = jump_s
    for day in range(5):
        record(store, str(day))
        clock.pass_time(DAY_S)
    record(store, "last")
    assert kept(tmp_path) == ["before", "0", "1", "2", "3", "4", "last"]


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_restart_with_a_wrong_clock_deletes_nothing(clock: Clock, tmp_path: Path, jump_s: float) -> None:
    for name in ("first", "second"):
        store = clock.open_store(tmp_path)
        record(store, name)
        store.close()
    clock.jump_s = jump_s
    store = clock.open_store(tmp_path)
    record(store, "wrong")
    clock.jump_s = 0.0
    record(store, "right")
    store.close()
    store = clock.open_store(tmp_path)
    record(store, "last")
    clock.pass_time(3 * DAY_S)
    record(store, "later")
    store.close()
    assert kept(tmp_path) == ["first", "second", "wrong", "right", "last", "later"]


@pytest.mark.parametrize("jump_s", JUMPS_S)
@pytest.mark.parametrize("lasts_s", [0.0, 3600.0, TRUST_CLOCK_AFTER_S - 60])
def test_a_restart_after_rows_with_a_wrong_clock_deletes_nothing(
    clock: Clock, tmp_path: Path, jump_s: float, lasts_s: float
) -> None:
    """The newest row has a wrong time as well, and the wall clock agrees with it for a while."""
    store = clock.open_store(tmp_path)
    for number in range(3):
        record(store, f"before {number}")
        clock.pass_time(60.0)
    clock.jump_s = jump_s
    record(store, "with the wrong clock")
    store.close()
    again = clock.open_store(tmp_path)
    record(again, "after the restart")
    clock.pass_time(lasts_s)
    record(again, "later")
    clock.jump_s = 0.0
    record(again, "with the right clock")
    clock.pass_time(3600.0)
    record(again, "an hour later")
    again.close()
    assert len(kept(tmp_path)) == 8


def test_rows_are_deleted_after_a_long_absence_when_the_clock_has_kept_its_time_for_a_day(
    clock: Clock, tmp_path: Path
) -> None:
    for name in ("spring", "autumn"):
        store = clock.open_store(tmp_path)
        record(store, name)
        store.close()
        clock.pass_time(100 * DAY_S)
    store = clock.open_store(tmp_path)
    record(store, "today")
    assert kept(tmp_path) == ["spring", "autumn", "today"]
    clock.pass_time(2 * TRUST_CLOCK_AFTER_S)
    record(store, "two days later")
    clock.pass_time(TRUST_CLOCK_AFTER_S + 60.0)
    record(store, "three days later")
    clock.pass_time(TRUST_CLOCK_AFTER_S)
    record(store, "four days later")
    store.close()
    assert kept(tmp_path)[0] == "today"


def test_rows_are_deleted_at_their_age_during_a_run(store: TraceStore, clock: Clock, tmp_path: Path) -> None:
    for day in range(100):
        record(store, str(day))
        clock.pass_time(DAY_S)
    assert len(kept(tmp_path)) in (30, 31)
    assert kept(tmp_path)[-1] == "99"


def test_time_in_which_the_coordinator_did_not_run_counts_when_the_clock_has_kept_its_time(
    clock: Clock, tmp_path: Path
) -> None:
    store = clock.open_store(tmp_path)
    record(store, "old")
    store.close()
    clock.pass_time(60 * DAY_S)
    store = clock.open_store(tmp_path)
    record(store, "new")
    assert kept(tmp_path) == ["old", "new"]
    clock.pass_time(TRUST_CLOCK_AFTER_S)
    record(store, "newest")
    assert kept(tmp_path) == ["new", "newest"]
    store.close()


def test_learned_estimates_do_not_expire_by_a_jump(clock: Clock, tmp_path: Path) -> None:
    store = clock.open_store(tmp_path)
    store.record_learned([LearnedValue("speed", "studio", "llama3", {"x": 1.0})])
    assert store.flush()
    store.close()
    clock.jump_s = 400 * DAY_S
    store = clock.open_store(tmp_path)
    store.record_learned([LearnedValue("speed", "mini", "llama3", {"x": 1.0})])
    assert store.flush()
    found = store.read(learned_state.load_learned, store.started_s())
    assert {value.subject for value in found} == {"studio", "mini"}
    store.close()


def test_a_trace_is_deleted_only_after_it_was_summed_up(store: TraceStore, clock: Clock) -> None:
    for name in ("a", "b", "c"):
        record(store, name)
    store.close()
    began_at = clock.wall()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        connection.execute("UPDATE sum_progress SET trace_id = 1")
        retained = Retention(StoreSettings(retention_days=1.0, rows_max=2))
        retained.start(connection, began_at, 0.0)
        retained.trim(connection, began_at + 9 * DAY_S, 9 * DAY_S)
        assert connection.execute("SELECT request_id FROM request_traces").fetchall() == [("b",), ("c",)]
        connection.execute("UPDATE sum_progress SET trace_id = 3")
        retained.trim(connection, began_at + 9 * DAY_S, 9 * DAY_S)
        assert connection.execute("SELECT request_id FROM request_traces").fetchall() == []
