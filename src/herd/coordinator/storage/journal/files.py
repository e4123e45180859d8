"""Appends each admitted request and each trace to a file before the database has it, so that a crash loses none.

    data folder/journal/RUN-NUMBER.journal   frames: length, CRC-32, and a MessagePack array of admissions and endings

The event loop writes one frame for each turn in which requests were admitted or ended. The operating system keeps what
was written when the process is killed; only a power failure can lose the newest frames. A file is removed when all its
traces are in the database or were dropped. A new file begins with the requests that are still running. Nothing here has
text of a prompt or an answer.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from herd.coordinator.storage.data_dir import make_private
from herd.core.state.commands import Record
from herd.core.state.request import Request

FOLDER = "journal"
SUFFIX = ".journal"
FILES_MAX = 16
"""Files of one run; together they have at most `FLEET_JOURNAL_MAX_BYTES`."""
TEXT_MAX_CHARS = 1_000
COUNT_MAX = 2**53
HEAD = struct.Struct("<II")
"""Length and CRC-32 of the frame that follows."""

AdmissionValues = tuple[object, ...]
"""The values of an `Admission`, in its order: a tuple is cheaper to make than a record."""


class Admission(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """A request that was admitted. `at` is the loop's time, `wall_s` unix time."""

    id: str
    wall_s: float
    at: float
    model: str
    requested_name: str
    dialect: str
    kind: str
    stream: bool
    client_ip: str
    tags: tuple[str, ...]
    key_id: str
    prompt_tokens: int
    size_bytes: int
    user: str = ""
    app: str = ""


class EndedAttempt(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The attempt of an ending; see `Attempt`."""

    number: int
    node_id: str
    started_at: float
    failure: str | None
    is_truncated: bool
    without_effect: tuple[str, ...]


class Ending(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """A trace, without the candidates of its decision. `number` counts the traces of the run from 1."""

    number: int
    id: str
    wall_s: float
    at: float
    arrived_at: float
    outcome: str
    model: str
    retries: int
    fallback_used: bool
    excluded: tuple[str, ...]
    error: str
    first_byte_at: float | None
    held_s: float
    counters: tuple[int | None, int | None, int | None, float | None, float | None, float | None, str | None]
    attempt: EndedAttempt | None
    chosen: str | None
    policy: str | None


Frame = tuple[list[Admission], list[Ending]]

log = logging.getLogger("herd.store")


class Journal:
    """`admitted`, `ended` and `write` are called on the event loop, `saved` on the writer's thread."""

    def __init__(
        self, folder: Path, run: str, bytes_max: int, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        """`run` identifies this run of the coordinator. `call_soon` calls `write` at the end of the loop's turn."""
        self.folder = folder
        self.run = run
        self._file_bytes_max = bytes_max // FILES_MAX
        self._call_soon = call_soon
        self._running: dict[str, AdmissionValues] = {}
        self._admissions: list[AdmissionValues] = []
        self._endings: list[tuple[object, ...]] = []
        self._is_waiting = False
        self._number = self._file_number = 0
        self._descriptor: int | None = None
        self._size_bytes = 0
        self._full_files: deque[tuple[Path, int]] = deque()
        """Files that are complete, and the number of the last trace in each."""
        self._changing_files = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._is_failing = False

    # --- on the event loop ---

    def admitted(self, request: Request, at: float, wall_s: float) -> None:
        values = (
            request.id,
            wall_s,
            at,
            request.model,
            request.requested_name,
            request.dialect,
            request.kind,
            request.stream,
            request.client_ip,
            request.tags,
            request.key_id,
            request.prompt_tokens,
            request.size_bytes,
            request.user,
            request.app,
        )
        self._running[request.id] = values
        self._admissions.append(values)
        if not self._is_waiting:
            self._is_waiting = True
            self._call_soon(self.write)

    def ended(self, record: Record, wall_s: float, is_final: bool) -> int:
        """Returns the number of the trace, for `saved`."""
        request, attempt, counters, decision = record.request, record.attempt, record.counters, record.decision
        if request.id not in self._running:
            self.admitted(request, record.arrived_at, wall_s)
        if is_final:
            del self._running[request.id]
        self._number = number = self._number + 1
        failure = attempt.failure if attempt is not None else None
        self._endings.append(
            (
                number,
                request.id,
                wall_s,
                record.at,
                record.arrived_at,
                record.outcome,
                record.model,
                record.retries,
                record.fallback_used,
                record.excluded,
                record.error,
                record.first_byte_at,
                record.held_s,
                (
                    counters.prompt_tokens,
                    counters.completion_tokens,
                    counters.cached_tokens,
                    counters.load_s,
                    counters.prefill_s,
                    counters.decode_s,
                    counters.finish_reason,
                ),
                (
                    attempt.number,
                    attempt.node_id,
                    attempt.started_at,
                    failure.kind if failure is not None else None,
                    attempt.is_truncated,
                    attempt.without_effect,
                )
                if attempt is not None
                else None,
                decision.chosen if decision is not None else None,
                decision.policy if decision is not None else None,
            )
        )
        if not self._is_waiting:
            self._is_waiting = True
            self._call_soon(self.write)
        return number

    def write(self) -> None:
        """Appends what was admitted and ended since the last call. An error is logged once; requests are served."""
        self._is_waiting = False
        admissions, endings = self._admissions, self._endings
        self._admissions, self._endings = [], []
        is_written = False
        try:
            if self._descriptor is None or self._size_bytes >= self._file_bytes_max:
                self._next_file()
                admissions = [*self._running.values(), *(one for one in admissions if one[0] not in self._running)]
            assert self._descriptor is not None
            frame = self._encoded(admissions, endings)
            written = os.write(self._descriptor, frame)
            self._size_bytes += written
            if written < len(frame):
                raise OSError(f"{written} of {len(frame)} bytes were written")
            is_written = True
        except OSError as error:
            self._fail(error)
            return
        finally:
            if not is_written:
                # The file lacks endings: it is removed when the database has them.
                self._close_file()
        if self._is_failing:
            log.info("the journal is being written again")
            self._is_failing = False

    def close(self, is_saved: bool) -> None:
        """Closes the journal, and removes it if all its traces are in the database."""
        self.write()
        self._close_file()
        if is_saved and not self._running:
            self.saved(self._number)

    def _encoded(self, admissions: list[AdmissionValues], endings: list[tuple[object, ...]]) -> bytes:
        try:
            payload = self._encoder.encode((admissions, endings))
        except (UnicodeEncodeError, OverflowError):
            # A name has half of a surrogate pair, or an engine's number has more than 64 bits.
            payload = self._encoder.encode((_valid(admissions), _valid(endings)))
        return HEAD.pack(len(payload), zlib.crc32(payload)) + payload

    def _next_file(self) -> None:
        self._close_file()
        make_private(self.folder)
        path = self._path(self._file_number + 1)
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        self._file_number += 1
        self._size_bytes = 0
        with self._changing_files:
            if len(self._full_files) >= FILES_MAX - 1:
                # The ring of the store has dropped these traces, or will write them.
                self._full_files.popleft()[0].unlink(missing_ok=True)

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
            with self._changing_files:
                self._full_files.append((self._path(self._file_number), self._number))

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.run}-{number:06d}{SUFFIX}"

    def _fail(self, error: OSError) -> None:
        """A frame that was written in part ends its file: the next frame goes to a new one."""
        if not self._is_failing:
            log.warning(
                "the journal cannot be written: requests that a crash interrupts will have no trace",
                extra={"problem": str(error)},
            )
        self._is_failing = True
        if self._descriptor is not None and self._size_bytes == 0:
            self._path(self._file_number).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
        self._close_file()

    # --- on the writer's thread ---

    def saved(self, number: int) -> None:
        """The traces up to this number are in the database or were dropped: removes the files with no others."""
        with self._changing_files:
            while self._full_files and self._full_files[0][1] <= number:
                self._full_files.popleft()[0].unlink(missing_ok=True)


def _valid(value: object) -> object:
    """The value with text that is valid UTF-8, and numbers of at most `COUNT_MAX`."""
    if isinstance(value, str):
        return value[:TEXT_MAX_CHARS].encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-COUNT_MAX, min(value, COUNT_MAX))
    if isinstance(value, list | tuple):
        return [_valid(one) for one in value]
    return value


def files_of_runs(folder: Path, except_run: str) -> dict[str, list[Path]]:
    """The files of earlier runs, in order. Raises `OSError`."""
    runs: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.glob("*" + SUFFIX)):
            run = path.name.rpartition("-")[0]
            if run != except_run:
                runs.setdefault(run, []).append(path)
    return runs


def frames(path: Path) -> Iterator[Frame]:
    """The frames of one file, up to the first one that is torn or damaged. Raises `OSError`."""
    data = path.read_bytes()
    at = 0
    while len(data) - at >= HEAD.size:
        length, checksum = HEAD.unpack_from(data, at)
        payload = data[at + HEAD.size : at + HEAD.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        try:
            yield msgspec.msgpack.decode(payload, type=Frame)
        except msgspec.MsgspecError:
            return
        at += HEAD.size + length
