"""Writes log records as JSON lines into the data folder and as plain lines to the console, without blocking the caller.

One thread formats and writes the records of a bounded queue. When the disk or the terminal is too slow, records are
dropped and counted. Callers use the standard library: `logging.getLogger("herd.x").info("dispatched", extra={...})`;
every value in `extra` becomes a field of the JSON line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, TextIO

from herd.files import PRIVATE_FILE, PRIVATE_FOLDER

FIELD_MAX_CHARS = 2048
FIELDS_MAX = 32
QUEUE_MAX = 10_000
FRAMES_MAX = 20
NUMBER_MAX = 2**63
"""Larger integers, NaN and infinity are written as text: not every JSON reader accepts them as numbers."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LIBRARIES_LEVEL = logging.WARNING
"""Minimum level for loggers outside herd: debug lines of libraries may contain prompts."""
_RETRY_AFTER_LINES = 100
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# JSON escapes the characters below a space; these are escaped here: DEL, C1 controls, line separators, text direction.
_INVISIBLE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLORS = ((logging.ERROR, "\x1b[31m"), (logging.WARNING, "\x1b[33m"), (logging.INFO, ""), (0, "\x1b[2m"))
_NO_COLOR = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str = field(
        default="DEBUG",
        metadata={"env": "FLEET_LOG_LEVEL", "help": "Minimum log level of the log file.", "choices": LEVELS},
    )
    console_level: str = field(
        default="INFO",
        metadata={"env": "FLEET_CONSOLE_LOG_LEVEL", "help": "Minimum log level on the console.", "choices": LEVELS},
    )
    file_max_bytes: int = field(
        default=64 * 1024 * 1024,
        metadata={
            "env": "FLEET_LOG_FILE_MAX_BYTES",
            "help": "Maximum size of a log file in bytes; a new file starts at this size and at midnight.",
            "min": 1024,
        },
    )
    files_kept: int = field(
        default=30,
        metadata={
            "env": "FLEET_LOG_FILES_KEPT",
            "help": "Number of closed log files to keep; the oldest are deleted first.",
            "min": 1,
            "max": 10_000,
        },
    )


class Logs:
    """The running log: `start` adds it to the root logger; `close` writes what is queued and removes it."""

    def __init__(self, settings: LogSettings, file: LogFile, console: TextIO) -> None:
        self.handler = _BoundedQueueHandler()
        self._file = file
        self._console = _ConsoleHandler(settings, console)
        self._listener = _Listener(self.handler.records, file, self._console, self._after_batch)
        self._dropped_reported = 0
        self._is_failure_shown = False
        self._is_closed = False

    @property
    def dropped(self) -> int:
        """Records that are not in the file: the queue was full, or the file could not be written."""
        return self.handler.dropped + self._file.dropped

    def start(self) -> None:
        logging.getLogger().addHandler(self.handler)
        logging.getLogger().setLevel(LIBRARIES_LEVEL)
        logging.getLogger("herd").setLevel(min(self._file.level, self._console.level))
        self._listener.start()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until every record so far is written or dropped. False if that takes longer."""
        marker = _FlushMarker()
        self.handler.records.put(marker)
        return marker.is_reached.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        logging.getLogger().removeHandler(self.handler)
        # `stop` waits without a time limit, and a console that blocks must not keep the process from ending.
        stopping = threading.Thread(target=self._listener.stop, name="herd-logs-stop", daemon=True)
        stopping.start()
        stopping.join(timeout_s)
        if not stopping.is_alive():
            self._file.close()

    def _after_batch(self) -> None:
        """Called on the writer's thread when the queue is empty."""
        if self.dropped > self._dropped_reported:
            self._report_dropped()
        self._file.flush()

    def _report_dropped(self) -> None:
        count, self._dropped_reported = self.dropped - self._dropped_reported, self.dropped
        record = logging.makeLogRecord({"name": "herd.logs", "levelno": logging.WARNING, "levelname": "WARNING"})
        record.msg, record.count = "log lines were dropped", count
        if self._file.write(json_line(record), record.created):
            self._is_failure_shown = False
        elif not self._is_failure_shown:
            record.msg = f"the log file {self._file.path} cannot be written"
            self._is_failure_shown = True
            self._console.handle(record)


class _FlushMarker(logging.LogRecord):
    """A queue entry that is not written: it reports that everything before it is."""

    def __init__(self) -> None:
        super().__init__("herd.logs", logging.NOTSET, "", 0, "", None, None)
        self.is_reached = threading.Event()


class _BoundedQueueHandler(QueueHandler):
    """Queues records for the writer's thread. It never waits: when the queue is full, the record is dropped."""

    def __init__(self) -> None:
        self.records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        self.dropped = 0
        super().__init__(self.records)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Formats the arguments now, because they may change; keeps the exception, which becomes fields of the line."""
        if record.args:
            record.msg, record.args = _message(record), None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if self.records.qsize() >= QUEUE_MAX:
            self.dropped += 1
        else:
            self.records.put_nowait(record)


class _Listener(QueueListener):
    """The writer's thread. It calls `after_batch` when the queue is empty, so that many lines share one disk write."""

    def __init__(
        self,
        records: SimpleQueue[logging.LogRecord],
        file: logging.Handler,
        console: logging.Handler,
        after_batch: Callable[[], None],
    ) -> None:
        super().__init__(records, file, console, respect_handler_level=True)
        self._records = records
        self._after_batch = after_batch

    def handle(self, record: logging.LogRecord) -> None:
        if isinstance(record, _FlushMarker):
            self._after_batch()
            record.is_reached.set()
            return
        super().handle(record)
        if self._records.empty():
            self._after_batch()


class _ConsoleHandler(logging.StreamHandler[TextIO]):
    terminator = ""

    def __init__(self, settings: LogSettings, console: TextIO) -> None:
        super().__init__(console)
        self.setLevel(settings.console_level)
        self._has_colors = console.isatty() and not os.environ.get("NO_COLOR")

    def format(self, record: logging.LogRecord) -> str:
        return console_line(record, self._has_colors)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - the standard library's method
        """The terminal is closed: from here on only the file gets lines."""
        self.setLevel(logging.CRITICAL + 1)


class LogFile(logging.Handler):
    """Appends to `NAME.jsonl` and rotates it to `NAME.jsonl.2026-08-22`, `NAME.jsonl.2026-08-22.1` and so on.

    The standard rotating handlers rotate by size or by time, not by both, and flush after every line.
    """

    def __init__(self, settings: LogSettings, folder: Path, name: str) -> None:
        super().__init__(settings.level)
        self.dropped = 0
        self._settings = settings
        self.path = folder / f"{name}.jsonl"
        self._file: BinaryIO | None = None
        self._day = ""
        self._size_bytes = 0
        self._lines_until_retry = 0

    def emit(self, record: logging.LogRecord) -> None:
        if not self.write(json_line(record), record.created):
            self.dropped += 1

    def write(self, line: str, at: float) -> bool:
        """Appends one line that was logged at unix time `at`. It does not raise: False means that the line is lost."""
        if self._file is None and self._lines_until_retry > 0:
            self._lines_until_retry -= 1
            return False
        # A lone surrogate becomes its own JSON escape.
        data = line.encode("utf-8", "backslashreplace")
        try:
            file = self._open_for(_day(at), len(data))
            self._size_bytes += file.write(data)
        except OSError:
            self._close_until_retry()
            return False
        return True

    def flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError:
                self._close_until_retry()

    def close(self) -> None:
        self._close_file()
        super().close()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _open_for(self, day: str, line_bytes: int) -> BinaryIO:
        """The open file, rotated first if the day is over or the file would become too large."""
        if self._file is None:
            self._file = self._open(day)
        is_full = self._size_bytes > 0 and self._size_bytes + line_bytes > self._settings.file_max_bytes
        # Only to a later day: lines of two threads may cross midnight in either order, and clocks are set back.
        if day > self._day or is_full:
            self._close_file()
            self._rotate(self._day)
            self._file = self._open(day)
        return self._file

    def _open(self, day: str) -> BinaryIO:
        self.path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, PRIVATE_FILE)
        file = os.fdopen(descriptor, "ab")
        status = os.fstat(file.fileno())
        self._size_bytes = status.st_size
        # A file of an earlier run belongs to the day on which it was last written.
        self._day = _day(status.st_mtime) if self._size_bytes else day
        return file

    def _rotate(self, day: str) -> None:
        """Renames the file to its day and the day's next number, and deletes the oldest files beyond the limit."""
        closed = sorted(self.path.parent.glob(f"{self.path.name}.*"), key=_day_and_number)
        numbers = [number for other, number in map(_day_and_number, closed) if other == day]
        suffix = f".{day}.{numbers[-1] + 1}" if numbers else f".{day}"
        newest = self.path.with_name(self.path.name + suffix)
        self.path.rename(newest)
        for path in [*closed, newest][: -self._settings.files_kept]:
            path.unlink(missing_ok=True)

    def _close_until_retry(self) -> None:
        self._close_file()
        self._lines_until_retry = _RETRY_AFTER_LINES


def start(settings: LogSettings, data_dir: Path, name: str = "herd", console: TextIO | None = None) -> Logs:
    """Starts logging to `logs/NAME.jsonl` in the data folder and to the console (standard error by default).

    Each process needs its own name.
    """
    logs = Logs(settings, LogFile(settings, data_dir / "logs", name), console or sys.stderr)
    logs.start()
    return logs


def json_line(record: logging.LogRecord) -> str:
    """One JSON object and a newline: ts (RFC 3339, UTC, ms), level, logger, msg, then the fields of `extra`."""
    ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields: dict[str, object] = {
        "ts": ts,
        "level": record.levelname.lower(),
        "logger": record.name,
        "msg": _truncated(_message(record)),
    }
    for name, value in _context(record).items():
        fields.setdefault(_truncated(name), _json_value(value))
    if record.exc_info and record.exc_info[1] is not None:
        fields.update(_error_fields(record.exc_info[1]))
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def console_line(record: logging.LogRecord, colors: bool = False) -> str:
    """One line for the console: the time, the level unless it is info, the message, and the fields in parentheses."""
    clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
    level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
    error = _error_fields(record.exc_info[1]) if record.exc_info and record.exc_info[1] is not None else {}
    context = ", ".join(
        f"{name}={_json_value(value)}" for name, value in {**_context(record), **error}.items() if name != "stack"
    )
    text = _printable(f"{level}{_truncated(_message(record))}" + (f" ({context})" if context else ""))
    color = next(color for level_min, color in _COLORS if record.levelno >= level_min) if colors else ""
    return f"{clock} {color}{text}{_NO_COLOR if color else ''}\n"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


def _context(record: logging.LogRecord) -> dict[str, object]:
    fields = [(name, value) for name, value in vars(record).items() if name not in _STANDARD_FIELDS]
    return dict(fields[:FIELDS_MAX])


def _error_fields(error: BaseException) -> dict[str, object]:
    """An exception as fields: its type, its message and its stack, without source lines and values of variables."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    stack = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return {"error": _truncated(f"{type(error).__name__}: {error}"), "stack": _truncated(stack)}


def _json_value(value: object) -> object:
    """The value as JSON can express it, truncated to the limit of a field."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < NUMBER_MAX:
        return value
    if isinstance(value, int):
        return "a very large number"
    return _truncated(value if isinstance(value, str) else str(value))


def _truncated(text: str) -> str:
    return text if len(text) <= FIELD_MAX_CHARS else text[: FIELD_MAX_CHARS - 1] + "…"


def _printable(text: str) -> str:
    """Escapes control characters: a name or an error text must not move the cursor or change a color."""
    return _CONTROL.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _day_and_number(path: Path) -> tuple[str, int]:
    """The sort key of a rotated file: its day, then its number as an integer."""
    _, _, tail = path.name.partition(".jsonl.")
    day, _, number = tail.partition(".")
    return day, int(number) if number.isdigit() else 0
