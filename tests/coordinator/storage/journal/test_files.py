"""Tests that the journal is bounded, private and without prompts, and that torn or damaged ends of it are ignored."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from pathlib import Path

import msgspec
import pytest

from herd.coordinator.storage.journal.files import (
    COUNT_MAX,
    FILES_MAX,
    HEAD,
    Admission,
    Ending,
    Journal,
    files_of_runs,
    frames,
)
from herd.core.state.commands import Record
from herd.core.state.request import Counters, Failure, FailureKind, Outcome
from recorded import a_record

MIB = 1024 * 1024


class Turn:
    """The end of the event loop's turn, when a test wants it."""

    def __init__(self) -> None:
        self.calls = 0

    def call_soon(self, _: object) -> None:
        self.calls += 1


def a_journal(folder: Path, bytes_max: int = MIB, run: str = "run") -> tuple[Journal, Turn]:
    turn = Turn()
    return Journal(folder, run, bytes_max, turn.call_soon), turn


def read(folder: Path, run: str = "") -> tuple[list[Admission], list[Ending]]:
    admissions, endings = list[Admission](), list[Ending]()
    for paths in files_of_runs(folder, run).values():
        for path in paths:
            for admitted, ended in frames(path):
                admissions += admitted
                endings += ended
    return admissions, endings


def end(journal: Journal, record: Record) -> int:
    return journal.ended(record, 1_700_000_002.0, record.outcome is not Outcome.RETRIED)


def test_values_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path)
    record = a_record(
        "r1",
        Outcome.FAILED,
        tags=("user:ann",),
        counters=Counters(40, 10, 8, 0.25, 0.5, 1.0, "stop"),
        failure=Failure(kind=FailureKind.RESET),
        retries=1,
        error="connection reset",
    )
    journal.admitted(record.request, 100.0, 1_700_000_000.0)
    assert end(journal, record) == 1
    journal.write()
    ((admission,), (ending,)) = read(tmp_path)
    assert (admission.id, admission.at, admission.wall_s) == ("r1", 100.0, 1_700_000_000.0)
    assert (admission.model, admission.requested_name, admission.tags) == ("llama3:latest", "llama3", ("user:ann",))
    assert (ending.number, ending.id, ending.outcome, ending.retries) == (1, "r1", "failed", 1)
    assert ending.counters == (40, 10, 8, 0.25, 0.5, 1.0, "stop")
    assert ending.attempt is not None
    assert (ending.attempt.node_id, ending.attempt.failure) == ("studio", "reset")
    assert (ending.error, ending.chosen, ending.policy) == ("connection reset", "studio", "signals")


def test_one_turn_of_the_loop_is_one_frame(tmp_path: Path) -> None:
    journal, turn = a_journal(tmp_path)
    for number in range(50):
        record = a_record(f"r{number}")
        journal.admitted(record.request, 100.0, 0.0)
        end(journal, record)
    assert turn.calls == 1
    assert not tmp_path.exists() or not list(tmp_path.glob("*.journal"))
    journal.write()
    (path,) = tmp_path.glob("*.journal")
    assert [(len(admitted), len(ended)) for admitted, ended in frames(path)] == [(50, 50)]


def test_any_torn_end_is_ignored(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path)
    for number in range(3):
        journal.admitted(a_record(f"r{number}").request, 100.0, 0.0)
        journal.write()
    (path,) = tmp_path.glob("*.journal")
    whole = path.read_bytes()
    length = len(whole) // 3
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert [one.id for one in read(tmp_path)[0]] == [f"r{number}" for number in range(size // length)]


def test_a_damaged_frame_ends_its_file(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path)
    for number in range(3):
        journal.admitted(a_record(f"r{number}").request, 100.0, 0.0)
        journal.write()
    (path,) = tmp_path.glob("*.journal")
    whole = path.read_bytes()
    for at in range(len(whole) // 3, len(whole) // 3 * 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert [one.id for one in read(tmp_path)[0]] == ["r0"]


def test_a_frame_with_other_contents_is_ignored(tmp_path: Path) -> None:
    payload = msgspec.msgpack.encode({"not": "a frame"})
    (tmp_path / "run-000001.journal").write_bytes(HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
    assert read(tmp_path) == ([], [])


def test_invalid_values_do_not_cost_the_frame(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path)
    record = a_record("odd\ud800", tags=("tag\udfff",), counters=Counters(prompt_tokens=10**30))
    journal.admitted(record.request, 100.0, 0.0)
    end(journal, record)
    end(journal, a_record("good"))
    journal.write()
    admissions, endings = read(tmp_path)
    assert [one.id for one in admissions] == ["odd?", "good"]
    assert endings[0].counters[0] == COUNT_MAX


def test_files_are_bounded_and_a_new_file_begins_with_the_running_requests(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path)
    running = a_record("running")
    journal.admitted(running.request, 100.0, 0.0)
    for number in range(20_000):
        end(journal, a_record(f"r{number}"))
        if number % 50 == 0:
            journal.write()
            files = list(tmp_path.glob("*.journal"))
            assert len(files) <= FILES_MAX
    assert sum(file.stat().st_size for file in files) <= MIB * 1.3
    for file in files:
        assert running.request.id in {one.id for admitted, _ in frames(file) for one in admitted}


def test_a_request_that_is_admitted_and_ends_at_the_change_of_files_is_in_the_new_one(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path, bytes_max=FILES_MAX)
    for number in range(5):
        end(journal, a_record(f"r{number}"))
        journal.write()
    for file in tmp_path.glob("*.journal"):
        ((admitted, ended),) = frames(file)
        assert [one.id for one in admitted] == [one.id for one in ended]


def test_a_file_is_removed_when_its_traces_are_saved(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path, bytes_max=FILES_MAX)
    numbers = []
    for number in range(5):
        numbers.append(end(journal, a_record(f"r{number}")))
        journal.write()
    assert len(list(tmp_path.glob("*.journal"))) == 5
    journal.saved(numbers[2])
    assert len(list(tmp_path.glob("*.journal"))) == 3  # The third file became full with the fourth trace.
    journal.close(is_saved=True)
    assert list(tmp_path.glob("*.journal")) == []


def test_the_journal_stays_when_requests_are_running_at_the_end(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path)
    journal.admitted(a_record("running").request, 100.0, 0.0)
    journal.close(is_saved=True)
    assert [one.id for one in read(tmp_path)[0]] == ["running"]


def test_files_are_private(tmp_path: Path) -> None:
    journal, _ = a_journal(tmp_path / "journal")
    journal.admitted(a_record().request, 100.0, 0.0)
    journal.write()
    (path,) = (tmp_path / "journal").glob("*.journal")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("is_partial", [False, True])
def test_a_full_disk_is_logged_once_and_the_journal_continues_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_partial: bool
) -> None:
    journal, _ = a_journal(tmp_path)
    journal.admitted(a_record("before").request, 100.0, 0.0)
    journal.write()
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if is_partial:
            return write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for number in range(3 * FILES_MAX):
            journal.admitted(a_record(f"r{number}").request, 100.0, 0.0)
            journal.write()
    assert caplog.text.count("the journal cannot be written") == 1
    journal.admitted(a_record("after").request, 100.0, 0.0)
    journal.write()
    assert {one.id for one in read(tmp_path)[0]} >= {"after", "before", "r0", f"r{3 * FILES_MAX - 1}"}
    assert len(list(tmp_path.glob("*.journal"))) <= FILES_MAX


def test_a_file_whose_frame_could_not_be_made_is_removed_when_its_rows_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would say for ever that a request is running which has its row."""
    journal, _ = a_journal(tmp_path)
    record = a_record("r1")
    journal.admitted(record.request, 1.0, 2.0)
    journal.write()
    number = journal.ended(record, 3.0, True)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_encoded", lambda *_: (_ for _ in ()).throw(RuntimeError("broken on purpose")))
        with pytest.raises(RuntimeError):
            journal.write()
    journal.saved(number)
    assert read(tmp_path) == ([], [])
    journal.close(is_saved=False)
