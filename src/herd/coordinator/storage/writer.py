"""Keeps what became of every request: one writer thread between the request path and SQLite. Decides nothing; waits for nobody.

`record` only appends to a bounded ring. The thread drains it in batches; what cannot be written (disk full, locked,
read-only) stays in the ring, the oldest go first when it is full, and writing resumes by itself.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from herd.coordinator.storage import audit_log, learned_state, rollups
from herd.coordinator.storage.data_dir import DataDirLock, lock_folder, make_private
from herd.coordinator.storage.database import (
    DATABASE_NAME,
    READ_MAX_STEPS,
    Damaged,
    NewerSchema,
    is_damage,
    open_for_reading,
    open_for_writing,
    set_aside,
)
from herd.coordinator.storage.retention import trim
from herd.coordinator.storage.trace_rows import (
    INSERT_LATENCIES,
    INSERT_TRACE,
    INSERT_TRACES,
    NEWEST_TRACE,
    ROWS_TOGETHER,
    TraceRow,
    trace_row,
)
from herd.core.planning.replay import DecisionRules
from herd.core.state.commands import Record
from herd.core.state.learned_values import LearnedValue
from herd.errors import Unavailable

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

Chore = Callable[[sqlite3.Connection], None]
"""Something else to be written: in a transaction of its own, which it begins and commits."""
CHORES_MAX = 1_000
"""Chores that wait at most; the oldest go first."""

Happened = tuple[Record, float, str]
"""What is to be written down, the unix time at which we were told, and the rules by which choices were made then."""

log = logging.getLogger("herd.store")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    retention_days: float = field(
        default=30.0,
        metadata={"env": "FLEET_TRACE_RETENTION_DAYS", "help": "Days to keep traces and latencies.", "min": 0.01},
    )
    rows_max: int = field(
        default=500_000,
        metadata={
            "env": "FLEET_TRACE_ROWS_MAX",
            "help": "Maximum number of trace rows and of latency rows; the oldest are deleted first.",
            "min": 1,
        },
    )
    flush_interval_s: float = field(
        default=0.5,
        metadata={
            "env": "FLEET_TRACE_FLUSH_SECONDS",
            "help": "Seconds between writes of traces to the database.",
            "min": 0.01,
            "max": 60,
        },
    )
    batch_rows: int = field(
        default=256,
        metadata={
            "env": "FLEET_TRACE_BATCH_ROWS",
            "help": "Number of traces that triggers an early write, and the size of a transaction.",
            "min": 1,
            "max": 10_000,
        },
    )
    ring_rows: int = field(
        default=10_000,
        metadata={
            "env": "FLEET_TRACE_RING_ROWS",
            "help": "Number of traces to keep in memory while the disk cannot be written.",
            "min": 1,
            "max": 1_000_000,
        },
    )
    candidates_max: int = field(
        default=256,
        metadata={
            "env": "FLEET_TRACE_CANDIDATES_MAX",
            "help": "Number of candidates to store with each trace, best first.",
            "min": 0,
        },
    )
    busy_timeout_s: float = field(
        default=2.0,
        metadata={
            "env": "FLEET_TRACE_BUSY_SECONDS",
            "help": "Seconds to wait for a database that another program has locked.",
            "min": 0,
            "max": 60,
        },
    )
    rollup_interval_s: float = field(
        default=5.0,
        metadata={
            "env": "FLEET_ROLLUP_SECONDS",
            "help": "Seconds between updates of the sums that the charts use.",
            "min": 0,
            "max": 300,
        },
    )
    minutes_days: float = field(
        default=16.0,
        metadata={"env": "FLEET_ROLLUP_MINUTES_DAYS", "help": "Days to keep the charts' sums per minute.", "min": 0.1},
    )
    hours_days: float = field(
        default=400.0,
        metadata={"env": "FLEET_ROLLUP_HOURS_DAYS", "help": "Days to keep the charts' sums per hour.", "min": 1},
    )
    trim_interval_s: float = field(
        default=60.0,
        metadata={"env": "FLEET_TRACE_TRIM_SECONDS", "help": "Seconds between deletions of old rows.", "min": 0},
    )


@dataclass(frozen=True, slots=True)
class StoreState:
    """How the store does, for status and health. `failing_since` is unix time; `problem` is a sentence, empty when well."""

    saved: int
    waiting: int
    dropped: int
    unusable: int
    failing_since: float | None
    problem: str


class TraceStore:
    """Open it, record into it from the event loop, ask it from anywhere, close it."""

    def __init__(
        self,
        settings: StoreSettings,
        data_dir: Path,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rules: DecisionRules | None = None,
    ) -> None:
        """`wall` stamps rows, in unix seconds; `monotonic` only paces the search for old ones, on the writer's thread.

        `rules` are those that decide as long as this store lives; each row names them.
        """
        self._settings = settings
        self.path = data_dir / DATABASE_NAME
        self._wall, self._monotonic = wall, monotonic
        self._ring: deque[Happened] = deque()
        self._ring_rows = settings.ring_rows
        self._batch: list[Happened] = []
        self._rules, self._fingerprint = rules, rules.fingerprint if rules is not None else ""
        self._audited: deque[audit_log.AuditEntry] = deque(maxlen=audit_log.ROWS_MAX)
        self._chores: deque[Chore] = deque(maxlen=CHORES_MAX)
        self._learnt: deque[LearnedValue] = deque(maxlen=learned_state.ROWS_MAX)
        self._memories: dict[tuple[str, str, str], LearnedValue] = {}
        """The writer's: what was learnt and is not written yet, the newest word of each."""
        self._flushes: deque[Future[bool]] = deque()
        self._something, self._hurry, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._lock: DataDirLock | None = None
        self._writer: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="herd-traces")
        self._reading: tuple[int, sqlite3.Connection] | None = None
        self._databases_seen = 0
        self._saved = self._dropped = self._unusable = 0
        self._failing_since: float | None = None
        self._problem = ""
        self._is_newer = False
        self._trimmed_at = monotonic() - settings.trim_interval_s
        self._rolled_at = monotonic() - settings.rollup_interval_s
        self._is_behind = False

    def open(self) -> None:
        """Locks the folder, opens or makes the database, starts the writer.

        Raises `DataDirInUse` when another coordinator runs on the folder. Every other trouble is logged, and shown by
        `state`, while requests are served without being recorded.
        """
        try:
            make_private(self.path.parent)
            self._lock = lock_folder(self.path.parent)
            self._connect()
        except (sqlite3.Error, OSError, Damaged, NewerSchema) as error:
            self._fail(error)
        self._writer = threading.Thread(target=self._write_forever, name="herd-store", daemon=True)
        self._writer.start()

    def record(self, record: Record) -> None:
        """Takes one record, in half a microsecond. Never raises, never waits."""
        ring = self._ring
        waiting = len(ring)
        if self._is_newer:
            self._dropped += 1
            return
        if waiting >= self._ring_rows:
            self._drop_oldest()
        ring.append((record, self._wall(), self._fingerprint))
        if waiting == 0:
            self._something.set()
        elif waiting == self._settings.batch_rows:
            self._hurry.set()

    def learnt(self, memories: Iterable[LearnedValue]) -> None:
        """Takes what was learnt, to be written after the traces. Never raises, never waits."""
        if not self._is_newer:
            self._learnt.extend(memories)
            self._something.set()

    def audit(self, entry: audit_log.AuditEntry) -> None:
        """Takes word of a change that somebody made, to be written at once. Never raises, never waits."""
        if not self._is_newer:
            self._audited.append(entry)
            self._something.set()
            self._hurry.set()

    def decide_by(self, rules: DecisionRules) -> None:
        """From now on choices are made by these rules; rows name them."""
        self._rules, self._fingerprint = rules, rules.fingerprint
        self.write(lambda connection: learned_state.keep_rules(connection, rules, self._wall()))

    def write(self, chore: Chore) -> None:
        """Takes something else to be written, after the traces. Never raises, never waits."""
        if not self._is_newer:
            self._chores.append(chore)
            self._something.set()

    def _drop_oldest(self) -> None:
        try:
            self._ring.popleft()
        except IndexError:
            # The writer took them all just now.
            return
        self._dropped += 1

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Has everything recorded so far written now; False when it could not be. For shutdown and tests."""
        done: Future[bool] = Future()
        self._flushes.append(done)
        self._something.set()
        self._hurry.set()
        try:
            return done.result(timeout_s)
        except TimeoutError:
            return False

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what it can, stops, lets go of the folder. What stays unwritten is counted in the log."""
        writer = self._writer
        if self._closing.is_set():
            return
        if writer is not None:
            if not self.flush(timeout_s):
                log.warning(
                    "traces were lost at the end", extra={"count": self.state.waiting, "problem": self._problem}
                )
            self._closing.set()
            self._something.set()
            self._hurry.set()
            writer.join(timeout_s)
        self._closing.set()
        self._readers.submit(self._close_reader).result(timeout_s)
        self._readers.shutdown(wait=False)
        if writer is None or not writer.is_alive():
            self._disconnect()
        if self._lock is not None:
            self._lock.release()

    @property
    def state(self) -> StoreState:
        return StoreState(
            self._saved,
            len(self._ring) + len(self._batch),
            self._dropped,
            self._unusable,
            self._failing_since,
            self._problem,
        )

    # --- asking ---

    async def ask(
        self, query: Callable[Concatenate[sqlite3.Connection, Asked], Answer], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """Runs one of `queries` beside the event loop. Raises `Unavailable` when the database cannot be read, and what it raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: self._answer(lambda c: query(c, *args, **kwargs)))

    def read(
        self, query: Callable[Concatenate[sqlite3.Connection, Asked], Answer], *args: Asked.args, **kwargs: Asked.kwargs
    ) -> Answer:
        """The same, waiting for the answer: for the start, before there is a loop to disturb."""
        return self._readers.submit(lambda: self._answer(lambda c: query(c, *args, **kwargs))).result()

    def _answer(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        try:
            return question(self._reader())
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._close_reader()
            raise Unavailable(f"the trace database cannot be read: {error}", code="traces_unavailable") from error

    def _reader(self) -> sqlite3.Connection:
        if self._reading is not None and self._reading[0] != self._databases_seen:
            self._close_reader()
        if self._reading is None:
            self._reading = (self._databases_seen, open_for_reading(self.path, self._settings.busy_timeout_s))
        connection = self._reading[1]
        # The handler is called once, when the budget of this question is spent, and its answer interrupts.
        connection.set_progress_handler(lambda: 1, READ_MAX_STEPS)
        return connection

    def _close_reader(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading[1].close()

    # --- the writer's thread ---

    def _write_forever(self) -> None:
        while not self._closing.is_set():
            self._something.wait()
            self._hurry.wait(self._settings.flush_interval_s)
            self._something.clear()
            self._hurry.clear()
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            self._drain()
            self._roll_up(is_wanted=bool(flushes))
            if self._ring or self._batch or self._audited or self._chores or self._learnt or self._memories:
                self._something.set()
            for flushed in flushes:
                left = self._batch or self._audited or self._chores or self._memories
                flushed.set_result(not left and not self._problem)

    def _drain(self) -> None:
        """Writes batch after batch until nothing waits or one cannot be written."""
        while self._ring or self._batch:
            ring, room = self._ring, self._settings.batch_rows - len(self._batch)
            self._batch.extend(ring.popleft() for _ in range(min(room, len(ring))))
            try:
                self._save(self._batch)
            except (sqlite3.Error, OSError, Damaged, NewerSchema) as error:
                self._fail(error)
                return
            self._saved += len(self._batch)
            self._batch.clear()
            self._recover()
        self._keep_audited()
        self._do_chores()
        self._keep_learnt()
        self._trim()

    def _save(self, batch: list[Happened]) -> None:
        """One transaction. Rows are made a few at a time between SQLite's steps, so that the event loop gets its turn."""
        connection = self._connection or self._connect()
        connection.execute("BEGIN IMMEDIATE")
        before = connection.execute(NEWEST_TRACE).fetchone()
        rows = self._rows(batch)
        while len(some := list(islice(rows, ROWS_TOGETHER))) == ROWS_TOGETHER:
            connection.execute(INSERT_TRACES, tuple(chain.from_iterable(some)))
        connection.executemany(INSERT_TRACE, some)
        connection.execute(INSERT_LATENCIES, before)
        connection.execute("COMMIT")

    def _keep_audited(self) -> None:
        entries = list(self._audited)
        if not entries:
            return
        try:
            audit_log.insert(self._connection or self._connect(), entries)
        except (sqlite3.Error, OSError, Damaged, NewerSchema) as error:
            self._fail(error)
            return
        for _ in entries:
            self._audited.popleft()
        self._recover()

    def _do_chores(self) -> None:
        while self._chores:
            chore = self._chores[0]
            try:
                chore(self._connection or self._connect())
            except (sqlite3.Error, OSError, Damaged, NewerSchema) as error:
                self._fail(error)
                return
            self._chores.popleft()
            self._recover()

    def _roll_up(self, is_wanted: bool) -> None:
        """Adds what is new to the sums, all of it when somebody waits for it. What cannot be added now is added later."""
        now = self._monotonic()
        if self._connection is None or not (is_wanted or now - self._rolled_at >= self._settings.rollup_interval_s):
            return
        try:
            while rollups.advance(self._connection):
                if self._ring and not is_wanted:
                    self._something.set()
                    return
            self._is_behind = False
        except sqlite3.Error as error:
            self._fall_behind(error)
        self._rolled_at = now

    def _fall_behind(self, error: sqlite3.Error) -> None:
        """Traces are kept all the same; the sums are made when they can be."""
        if is_damage(error, self.path) or self._connection is None:
            self._fail(error)
            return
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if not self._is_behind:
            log.warning("the sums behind the charts are not being kept up to date", extra={"problem": str(error)})
        self._is_behind = True

    def _keep_learnt(self) -> None:
        while self._learnt:
            memory = self._learnt.popleft()
            self._memories[memory.kind, memory.subject, memory.model] = memory
        if not self._memories:
            return
        try:
            learned_state.keep(self._connection or self._connect(), self._memories.values(), self._wall())
        except (sqlite3.Error, OSError, Damaged, NewerSchema) as error:
            self._fail(error)
            return
        self._memories.clear()
        self._recover()

    def _rows(self, batch: Iterable[Happened]) -> Iterator[TraceRow]:
        candidates_max = self._settings.candidates_max
        for record, wall_at, rules in batch:
            try:
                yield trace_row(record, wall_at, candidates_max, rules)
            except (ValueError, TypeError, OverflowError) as error:
                # One record nobody can write down must not keep the others from the disk.
                self._unusable += 1
                log.warning(
                    "a trace could not be made into a row",
                    extra={"request_id": record.request.id, "problem": str(error)},
                )

    def _trim(self) -> None:
        settings, now = self._settings, self._monotonic()
        if self._connection is None or now - self._trimmed_at < settings.trim_interval_s:
            return
        try:
            while trim(self._connection, self._wall(), settings.retention_days, settings.rows_max) or rollups.trim(
                self._connection, self._wall(), settings.minutes_days, settings.hours_days
            ):
                if self._ring:
                    # New rows go first; the rest of the old ones can wait until after the next batch.
                    return
        except sqlite3.Error as error:
            self._fail(error)
        self._trimmed_at = now

    # --- opening, failing, recovering ---

    def _connect(self) -> sqlite3.Connection:
        """Raises what `open_for_writing` raises, except for damage: then a new database takes the old one's place."""
        make_private(self.path.parent)
        try:
            connection = open_for_writing(self.path, self._settings.busy_timeout_s)
        except Damaged as error:
            self._set_aside(str(error))
            connection = open_for_writing(self.path, self._settings.busy_timeout_s)
        if self._rules is not None:
            learned_state.keep_rules(connection, self._rules, self._wall())
        self._connection = connection
        self._databases_seen += 1
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _set_aside(self, problem: str) -> None:
        kept = set_aside(self.path)
        log.warning(
            "the trace database was damaged; it was set aside and a new one begun",
            extra={"kept": str(kept), "problem": problem},
        )

    def _fail(self, error: Exception) -> None:
        """Remembers the trouble, says it once, and starts afresh with the next attempt."""
        self._disconnect()
        if isinstance(error, sqlite3.Error) and is_damage(error, self.path):
            try:
                self._set_aside(str(error))
                return
            except OSError as worse:
                error = worse
        self._is_newer = isinstance(error, NewerSchema)
        if self._is_newer:
            self._dropped += len(self._ring) + len(self._batch)
            for waiting in (self._ring, self._batch, self._audited, self._chores, self._learnt, self._memories):
                waiting.clear()
        if self._failing_since is None:
            self._failing_since = self._wall()
            log.warning(
                "traces are not being recorded; requests are served all the same", extra={"problem": str(error)}
            )
        self._problem = str(error)

    def _recover(self) -> None:
        if self._failing_since is not None:
            log.info("traces are being recorded again", extra={"dropped": self._dropped})
        self._failing_since, self._problem = None, ""
