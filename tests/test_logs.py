"""Tests that a log line is one JSON object, and that logging does not raise, block or use unlimited space."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from herd import logs
from herd.logs import FIELD_MAX_CHARS, LogFile, Logs, LogSettings, console_line, json_line, start

BEFORE_MIDNIGHT = datetime(2026, 8, 22, 23, 59, 59, 900_000, UTC).timestamp()


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def running(tmp_path: Path, console: io.StringIO) -> Iterator[Logs]:
    started = start(LogSettings(), tmp_path, console=console)
    yield started
    started.close()


def a_line(
    msg: str = "hello", level: int = logging.INFO, created: float = BEFORE_MIDNIGHT, **context: object
) -> logging.LogRecord:
    record = logging.makeLogRecord(
        {"name": "herd.test", "levelno": level, "levelname": logging.getLevelName(level), "msg": msg}
    )
    record.created = created
    vars(record).update(context)
    return record


def written(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "logs" / "herd.jsonl").read_bytes().decode("utf-8").split("\n")[:-1]]


def test_a_line_carries_time_level_logger_message_and_context(running: Logs, tmp_path: Path) -> None:
    logging.getLogger("herd.driver").info("dispatched", extra={"request_id": "r1", "node_id": "mac", "score": 60.5})
    assert running.flush()
    (line,) = written(tmp_path)
    ts = line.pop("ts")
    assert line == {
        "level": "info",
        "logger": "herd.driver",
        "msg": "dispatched",
        "request_id": "r1",
        "node_id": "mac",
        "score": 60.5,
    }
    assert isinstance(ts, str) and datetime.fromisoformat(ts).tzinfo is UTC


def test_time_is_rfc_3339_in_utc_with_milliseconds() -> None:
    assert json.loads(json_line(a_line()))["ts"] == "2026-08-22T23:59:59.900Z"


@pytest.mark.parametrize("seed", range(40))
def test_one_record_is_one_printable_line_for_any_text_in_its_fields(seed: int) -> None:
    rng = Random(seed)
    alphabet = [*map(chr, range(0xA0)), "\u2028", "\u2029", "\u202e", "\u2066", "\ud800", "é", "漢", "😀", '"', "\\"]
    text = "".join(rng.choice(alphabet) for _ in range(200))
    line = json_line(a_line(text, model=text, **{text[:20] or "x": text})).encode("utf-8", "backslashreplace").decode()
    assert line.endswith("\n")
    assert line[:-1].isprintable(), f"seed {seed}"
    assert json.loads(line)["msg"] == text, f"seed {seed}"
    assert json.loads(line)["model"] == text, f"seed {seed}"
    assert console_line(a_line(text, model=text))[:-1].isprintable(), f"seed {seed}"


def test_a_field_of_a_megabyte_is_truncated() -> None:
    line = json.loads(json_line(a_line("m" * 1_000_000, detail="d" * 1_000_000)))
    assert len(line["msg"]) == len(line["detail"]) == FIELD_MAX_CHARS


def test_the_number_of_fields_is_limited() -> None:
    line = json.loads(json_line(a_line(**{f"f{n}": n for n in range(1000)})))
    assert len(line) == logs.FIELDS_MAX + 4


def test_numbers_that_json_cannot_express_become_text() -> None:
    line = json_line(a_line(a=float("nan"), b=float("inf"), c=10**5000, d=True, e=None, f=["x"]))
    fields = json.loads(line, parse_constant=pytest.fail)
    assert (fields["a"], fields["b"], fields["c"]) == ("nan", "inf", "a very large number")
    assert (fields["d"], fields["e"], fields["f"]) == (True, None, "['x']")


def test_extra_fields_cannot_overwrite_the_standard_fields() -> None:
    assert json.loads(json_line(a_line("true", level=logging.INFO, ts="no", logger="no")))["ts"].startswith("2026")


def test_an_exception_is_logged_with_type_message_and_stack_but_no_source(running: Logs, tmp_path: Path) -> None:
    value_of_a_variable = "CANARY"
    try:
        raise ValueError(f"wrong by {len(value_of_a_variable)}")
    except ValueError:
        logging.getLogger("herd.x").exception("something broke")
    assert running.flush()
    (line,) = written(tmp_path)
    assert line["error"] == "ValueError: wrong by 6"
    assert "test_logs.py" in str(line["stack"])
    assert "CANARY" not in json.dumps(line)


def test_arguments_are_formatted_when_logged_not_when_written(running: Logs, tmp_path: Path) -> None:
    changing = ["before"]
    logging.getLogger("herd.x").info("it is %s", changing)
    changing[0] = "after"
    logging.getLogger("herd.x").info("wrong %d", "kind")
    assert running.flush()
    assert [line["msg"] for line in written(tmp_path)] == ["it is ['before']", "wrong %d"]


def test_file_and_console_have_their_own_levels(running: Logs, tmp_path: Path, console: io.StringIO) -> None:
    log = logging.getLogger("herd.x")
    log.debug("quiet")
    log.info("loud", extra={"node_id": "mac"})
    log.warning("very loud")
    assert running.flush()
    assert [line["msg"] for line in written(tmp_path)] == ["quiet", "loud", "very loud"]
    assert [line[9:] for line in console.getvalue().splitlines()] == ["loud (node_id=mac)", "warning: very loud"]


def test_libraries_log_only_warnings_and_errors(running: Logs, tmp_path: Path) -> None:
    logging.getLogger("another.library").info("a request body")
    logging.getLogger("another.library").warning("a problem")
    assert running.flush()
    assert [line["msg"] for line in written(tmp_path)] == ["a problem"]


def test_colors_are_used_only_if_requested() -> None:
    assert "\x1b" not in console_line(a_line("no"), colors=False)
    assert console_line(a_line("yes", level=logging.ERROR), colors=True).count("\x1b[") == 2


def test_a_closed_console_does_not_stop_the_log_file(tmp_path: Path) -> None:
    running = start(LogSettings(), tmp_path, console=_BrokenPipe())
    logging.getLogger("herd.x").info("one")
    logging.getLogger("herd.x").info("two")
    running.close()
    assert [line["msg"] for line in written(tmp_path)] == ["one", "two"]


class _BrokenPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_new_file_starts_at_midnight_utc(tmp_path: Path) -> None:
    file = LogFile(LogSettings(), tmp_path, "herd")
    assert (
        file.write("yesterday\n", BEFORE_MIDNIGHT)
        and file.write("today\n", BEFORE_MIDNIGHT + 1)
        and file.write("late yesterday\n", BEFORE_MIDNIGHT)
    )
    file.close()
    assert (tmp_path / "herd.jsonl").read_text() == "today\nlate yesterday\n"
    assert (tmp_path / "herd.jsonl.2026-08-22").read_text() == "yesterday\n"


def test_a_file_of_an_earlier_day_is_rotated_at_start(tmp_path: Path) -> None:
    (tmp_path / "herd.jsonl").write_text("old\n")
    os.utime(tmp_path / "herd.jsonl", (BEFORE_MIDNIGHT - 86_400, BEFORE_MIDNIGHT - 86_400))
    file = LogFile(LogSettings(), tmp_path, "herd")
    assert file.write("new\n", BEFORE_MIDNIGHT)
    file.close()
    assert (tmp_path / "herd.jsonl.2026-08-21").read_text() == "old\n"
    assert (tmp_path / "herd.jsonl").read_text() == "new\n"


def test_a_full_file_is_rotated_and_only_the_newest_files_remain(tmp_path: Path) -> None:
    file = LogFile(LogSettings(file_max_bytes=1024, files_kept=3), tmp_path, "herd")
    (tmp_path / "herd-node.jsonl.2020-01-01").write_text("another log's\n")
    for n in range(40):
        assert file.write(f"{n:03d}" + "é" * 250 + "\n", BEFORE_MIDNIGHT)
    file.close()
    kept = sorted(path.name for path in tmp_path.glob("herd.jsonl*"))
    assert len(kept) == 4 and (tmp_path / "herd-node.jsonl.2020-01-01").exists()
    assert all((tmp_path / name).stat().st_size <= 1024 for name in kept)
    assert (tmp_path / "herd.jsonl").read_text().startswith("038")


def test_logging_does_not_raise_if_the_file_cannot_be_written(tmp_path: Path, console: io.StringIO) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    running = start(LogSettings(console_level="ERROR"), tmp_path, console=console)
    for _ in range(500):
        logging.getLogger("herd.x").info("lost")
    assert running.flush()
    assert running.dropped == 500
    assert console.getvalue().count("cannot be written") == 1
    running.close()


def test_writing_resumes_when_the_folder_can_be_created(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    file = LogFile(LogSettings(), tmp_path / "logs", "herd")
    assert not file.write("lost\n", BEFORE_MIDNIGHT)
    (tmp_path / "logs").unlink()
    assert any(file.write("written\n", BEFORE_MIDNIGHT) for _ in range(200))
    file.close()
    assert (tmp_path / "logs" / "herd.jsonl").read_text().startswith("written\n")


def test_a_full_queue_drops_lines_and_logs_how_many(tmp_path: Path, console: io.StringIO) -> None:
    slow = Logs(LogSettings(), LogFile(LogSettings(), tmp_path / "logs", "herd"), console)
    for n in range(logs.QUEUE_MAX + 7):
        slow.handler.handle(a_line(f"{n}", level=logging.DEBUG, created=time.time()))
    assert slow.dropped == 7
    slow.start()
    assert slow.flush(timeout_s=60.0)
    slow.close()
    assert written(tmp_path)[-1]["count"] == 7
    assert len(written(tmp_path)) == logs.QUEUE_MAX + 1


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_only_the_owner_can_read_the_logs(running: Logs, tmp_path: Path) -> None:
    logging.getLogger("herd.x").info("hello")
    assert running.flush()
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "logs" / "herd.jsonl").stat().st_mode) == 0o600


def test_closing_removes_the_handler_from_the_root_logger(tmp_path: Path, console: io.StringIO) -> None:
    before = list(logging.getLogger().handlers)
    running = start(LogSettings(), tmp_path, console=console)
    logging.getLogger("herd.x").info("last line")
    running.close()
    running.close()
    assert logging.getLogger().handlers == before
    assert [line["msg"] for line in written(tmp_path)] == ["last line"]
