"""Where log lines go: JSON lines in the data folder, plain words on the console. Decides no content; blocks nobody.

A line is rendered and written by one thread behind a bounded queue; when the disk or the terminal is too slow, lines
are dropped and counted. Callers use the standard library: `logging.getLogger("herd.x").info("dispatched", extra={...})`,
where everything in `extra` becomes a field of the line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TextIO

FIELD_MAX_CHARS = 2048
FIELDS_MAX = 32
QUEUE_MAX = 10_000
FRAMES_MAX = 20
NUMBER_MAX = 2**63
"""Larger numbers, and those that are none, are written as words: not every reader of JSON takes them."""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OTHERS_LEVEL = logging.WARNING
"""Libraries are only heard from here on: their debug lines may quote what passes through them."""
_RETRY_AFTER_LINES = 100
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# JSON escapes what lies below a space; these are escaped here: DEL, C1 controls, line separators, text direction.
_INVISIBLE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = ((logging.ERROR, "\x1b[31m"), (logging.WARNING, "\x1b[33m"), (logging.INFO, ""), (0, "\x1b[2m"))
_NO_COLOUR = "\x1b[0m"


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
    """The running log. `start` makes one; `close` writes what waits and gives the standard library back its quiet."""

    def __init__(self, settings: LogSettings, file: LogFile, console: TextIO) -> None:
        self._file = file
        self._console = console
        self._file_level = logging.getLevelNamesMapping()[settings.level]
        self._console_level = logging.getLevelNamesMapping()[settings.console_level]
        self._colours = console.isatty() and not os.environ.get("NO_COLOR")
        self._waiting: deque[logging.LogRecord] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._idle = threading.Condition()
        self._writing = False
        self.dropped = 0
        self._dropped_said = 0
        self._trouble_shown = False
        self._sink = _Sink(self)
        self._thread = threading.Thread(target=self._write_forever, name="herd-logs", daemon=True)

    def begin(self) -> None:
        logging.getLogger().addHandler(self._sink)
        logging.getLogger().setLevel(OTHERS_LEVEL)
        logging.getLogger("herd").setLevel(min(self._file_level, self._console_level))
        self._thread.start()

    def take(self, record: logging.LogRecord) -> None:
        """Called by whoever logs, on any thread: never waits, never raises."""
        if len(self._waiting) >= QUEUE_MAX:
            self.dropped += 1
            return
        self._waiting.append(record)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until everything logged so far was written or dropped."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._waiting and not self._writing, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        if self._closing.is_set():
            return
        logging.getLogger().removeHandler(self._sink)
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._file.close()

    def _write_forever(self) -> None:
        while not self._closing.is_set() or self._waiting:
            self._wake.wait()
            self._wake.clear()
            self._writing = True
            while self._waiting:
                self._write(self._waiting.popleft())
            if self.dropped > self._dropped_said:
                self._say_dropped()
            self._file.flush()
            with self._idle:
                self._writing = False
                self._idle.notify_all()
            if self._closing.is_set():
                self._wake.set()

    def _write(self, record: logging.LogRecord) -> None:
        if record.levelno >= self._file_level and not self._file.write(json_line(record), record.created):
            self.dropped += 1
        if record.levelno >= self._console_level:
            self._show(record)

    def _show(self, record: logging.LogRecord) -> None:
        try:
            self._console.write(console_line(record, self._colours))
            self._console.flush()
        except (OSError, ValueError):
            # The terminal went away; the file is enough.
            self._console_level = logging.CRITICAL + 1

    def _say_dropped(self) -> None:
        count, self._dropped_said = self.dropped - self._dropped_said, self.dropped
        said = logging.makeLogRecord({"name": "herd.logs", "levelno": logging.WARNING, "levelname": "WARNING"})
        said.msg, said.count = "log lines were dropped", count
        if self._file.write(json_line(said), said.created):
            self._trouble_shown = False
        elif not self._trouble_shown:
            said.msg = f"the log file {self._file.path} cannot be written"
            self._trouble_shown = True
            self._show(said)


class _Sink(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock the standard library would take: an append needs none, and nobody may wait for the writer."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if record.args:
            # Arguments may change before the thread looks at them.
            record.msg, record.args = _message(record), None
        self._logs.take(record)


class LogFile:
    """`<folder>/<name>.jsonl` and its finished predecessors `<name>.jsonl.2026-08-22`, `....2026-08-22.1` and so on."""

    def __init__(self, settings: LogSettings, folder: Path, name: str) -> None:
        self._settings = settings
        self.path = folder / f"{name}.jsonl"
        self._file: BinaryIO | None = None
        self._day = ""
        self._size = 0
        self._lines_until_retry = 0

    def write(self, line: str, at: float) -> bool:
        """Appends one line that was logged at unix time `at`. False, and nothing raised, when it could not be kept."""
        if self._file is None and self._lines_until_retry > 0:
            self._lines_until_retry -= 1
            return False
        # A lone surrogate becomes its own JSON escape.
        data = line.encode("utf-8", "backslashreplace")
        try:
            file = self._ready(_day(at), len(data))
            self._size += file.write(data)
        except OSError:
            self._give_up()
            return False
        return True

    def flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError:
                self._give_up()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                return

    def _ready(self, day: str, coming: int) -> BinaryIO:
        if self._file is None:
            self._file = self._open(day)
        is_full = self._size > 0 and self._size + coming > self._settings.file_max_bytes
        # Only forwards: lines of two threads may cross midnight in either order, and clocks are set back.
        if day > self._day or is_full:
            self.close()
            self._finish(self._day)
            self._file = self._open(day)
        return self._file

    def _open(self, day: str) -> BinaryIO:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        file = os.fdopen(opened, "ab")
        found = os.fstat(file.fileno())
        self._size = found.st_size
        # A file of an earlier run belongs to the day on which it was last written.
        self._day = _day(found.st_mtime) if self._size else day
        return file

    def _finish(self, day: str) -> None:
        """Gives the file the name of its day, numbered after those that day has, and deletes the oldest beyond the limit."""
        finished = sorted(self.path.parent.glob(f"{self.path.name}.*"), key=_order)
        numbers = [number for other, number in map(_order, finished) if other == day]
        suffix = f".{day}.{numbers[-1] + 1}" if numbers else f".{day}"
        newest = self.path.with_name(self.path.name + suffix)
        self.path.rename(newest)
        for path in [*finished, newest][: -self._settings.files_kept]:
            path.unlink(missing_ok=True)

    def _give_up(self) -> None:
        self.close()
        self._lines_until_retry = _RETRY_AFTER_LINES


def start(settings: LogSettings, data_dir: Path, name: str = "herd", console: TextIO | None = None) -> Logs:
    """Begins logging to `<data_dir>/logs/<name>.jsonl` and the console (standard error). Two processes need two names."""
    logs = Logs(settings, LogFile(settings, data_dir / "logs", name), console or sys.stderr)
    logs.begin()
    return logs


def json_line(record: logging.LogRecord) -> str:
    """One JSON object and a newline: ts (RFC 3339, UTC, ms), level, logger, msg, then the context. Never more than one line."""
    ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields: dict[str, object] = {
        "ts": ts,
        "level": record.levelname.lower(),
        "logger": record.name,
        "msg": _cut(_message(record)),
    }
    for name, value in _context(record).items():
        fields.setdefault(_cut(name), _plain(value))
    if record.exc_info and record.exc_info[1] is not None:
        fields.update(_told(record.exc_info[1]))
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def console_line(record: logging.LogRecord, colours: bool = False) -> str:
    """One line for a person: time, level where it matters, the sentence, the context behind it."""
    clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
    level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
    told = _told(record.exc_info[1]) if record.exc_info and record.exc_info[1] is not None else {}
    context = ", ".join(
        f"{name}={_plain(value)}" for name, value in {**_context(record), **told}.items() if name != "stack"
    )
    words = _visible(f"{level}{_cut(_message(record))}" + (f" ({context})" if context else ""))
    colour = next(colour for least, colour in _COLOURS if record.levelno >= least) if colours else ""
    return f"{clock} {colour}{words}{_NO_COLOUR if colour else ''}\n"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        return str(record.msg)


def _context(record: logging.LogRecord) -> dict[str, object]:
    given = [(name, value) for name, value in vars(record).items() if name not in _STANDARD_FIELDS]
    return dict(given[:FIELDS_MAX])


def _told(error: BaseException) -> dict[str, object]:
    """An exception as fields: its kind, its words, and where it came from; no source lines, no values of variables."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    stack = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return {"error": _cut(f"{type(error).__name__}: {error}"), "stack": _cut(stack)}


def _plain(value: object) -> object:
    """What JSON can say, and no more than the limit of a field."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < NUMBER_MAX:
        return value
    if isinstance(value, int):
        return "a very large number"
    return _cut(value if isinstance(value, str) else str(value))


def _cut(text: str) -> str:
    return text if len(text) <= FIELD_MAX_CHARS else text[: FIELD_MAX_CHARS - 1] + "…"


def _visible(text: str) -> str:
    """Nothing that moves a cursor or changes a colour reaches a terminal from a name or an error text."""
    return _CONTROL.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _order(path: Path) -> tuple[str, int]:
    """By day, then by number: `.2` before `.10`."""
    _, _, tail = path.name.partition(".jsonl.")
    day, _, number = tail.partition(".")
    return day, int(number) if number.isdigit() else 0
