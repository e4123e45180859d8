"""Writes traces and all other data to the database, in one thread outside the request path.

`record` only appends to a bounded ring. The thread drains the ring in batches. Records that cannot be written (disk
full, database locked or read-only) stay in the ring; when it is full the oldest are dropped. Writing resumes without a
restart.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Concatenate

from msgspec.structs import astuple

from herd.coordinator.storage import audit_log, learned_state
from herd.coordinator.storage.data_dir import DataDirLock, lock_folder, make_private
from herd.coordinator.storage.database import DATABASE_NAME, Damaged, NewerSchema, is_damage
from herd.coordinator.storage.journal import files, progress, recovery
from herd.coordinator.storage.live_database import CopyFailed, LiveDatabase
from herd.coordinator.storage.reader import Parameters, Result, TraceReader
from herd.coordinator.storage.retention import Retention
from herd.coordinator.storage.rollups import advance, backlog, moving
from herd.coordinator.storage.store_settings import StoreSettings, StoreState
from herd.coordinator.storage.trace_rows import (
    INSERT_LATENCIES,
    INSERT_TRACE,
    INSERT_TRACES,
    NEWEST_TRACE,
    ROWS_PER_INSERT,
    TraceRow,
    trace_row,
)
from herd.core.planning.replay import DecisionRules
from herd.core.state.commands import Record
from herd.core.state.learned_values import LearnedValue
from herd.core.state.request import Outcome, Request
from herd.steady_time import since_boot_s

WriteJob = Callable[[sqlite3.Connection], None]
"""Writes something other than traces. A job begins and commits its own transaction."""
RUN_BYTES = 6
"""Random bytes that identify a run of the coordinator in the names of its journal."""
FLUSH_STEPS_MAX = 4
"""Maximum number of steps in which a flush adds traces to the sums."""
JOBS_MAX = 1_000
"""Maximum number of waiting jobs; the oldest are dropped first."""

PendingRecord = tuple[Record, float, str, int]
"""A record to write, the unix time at which the store received it, the fingerprint of the decision rules that were
active then, and its number in the journal."""

WRITE_ERRORS = (sqlite3.Error, OSError, Damaged, NewerSchema, CopyFailed)

log = logging.getLogger("herd.store")


def _contained(write: Callable[[], None]) -> None:
    """Writes the journal on the event loop, where an exception has no other frame that would report it."""
    try:
        write()
    except Exception:
        log.exception("internal invariant violated: the journal could not be written")


class TraceStore:
    """Writes and reads the trace database. The methods that queue data are called on the event loop; they neither
    raise nor block."""

    def __init__(
        self,
        settings: StoreSettings,
        data_dir: Path,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = since_boot_s,
        rules: DecisionRules | None = None,
        call_soon: Callable[[Callable[[], None]], object] = lambda write: write(),
    ) -> None:
        """`wall()` gives the time of each row, in unix seconds. `monotonic()` also counts while the machine sleeps; it
        times roll-ups and deletions, on the writer's thread.

        `rules` are the active decision rules until `set_rules` is called; each row has their fingerprint. `call_soon`
        calls a function at the end of the event loop's turn: the journal is written then.
        """
        self._settings = settings
        self.path = data_dir / DATABASE_NAME
        self.reader = TraceReader(self.path, settings.busy_timeout_s)
        self._wall, self._monotonic = wall, monotonic
        self._ring: deque[PendingRecord] = deque()
        self._ring_rows = settings.ring_rows
        self._batch: list[PendingRecord] = []
        self._rules, self._fingerprint = rules, rules.fingerprint if rules is not None else ""
        self._journal = files.Journal(
            data_dir / files.FOLDER,
            secrets.token_hex(RUN_BYTES),
            settings.journal_bytes_max,
            lambda write: call_soon(partial(_contained, write)),
        )
        self._is_recovered = False
        self._audit_entries: deque[audit_log.AuditEntry] = deque(maxlen=audit_log.ROWS_MAX)
        self._jobs: deque[WriteJob] = deque(maxlen=JOBS_MAX)
        self._learned: deque[LearnedValue] = deque(maxlen=learned_state.ROWS_MAX)
        self._unwritten: dict[tuple[str, str, str], LearnedValue] = {}
        """Used by the writer's thread alone: the newest value of each learned estimate that is not written yet."""
        self._flushes: deque[Future[bool]] = deque()
        self._has_work, self._flush_now, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._lock: DataDirLock | None = None
        self._writer: threading.Thread | None = None
        self._database = LiveDatabase(self.path, settings.busy_timeout_s, self.reader, self._prepare)
        self._saved = self._dropped = self._unusable = self._unconfirmed = self._committed_number = 0
        self._failing_since: float | None = None
        self._problem = ""
        self._is_newer = False
        self._retention = Retention(settings)
        self._has_started_ages = False
        self._trimmed_at = monotonic() - settings.trim_interval_s
        self._rolled_at = monotonic() - settings.rollup_interval_s
        self._is_rollup_failing = False

    def open(self) -> None:
        """Locks the data folder, opens or creates the database, starts the writer's thread.

        Raises `DataDirInUse` when another coordinator uses the folder. Every other failure is logged and shown in
        `state`; the coordinator then serves requests without recording them.
        """
        try:
            make_private(self.path.parent)
            self._lock = lock_folder(self.path.parent)
            self._recover_journals()
        except WRITE_ERRORS as error:
            self._fail(error)
        self._writer = threading.Thread(target=self._write_forever, name="herd-store", daemon=True)
        self._writer.start()

    # --- called on the event loop ---

    def admitted(self, request: Request, at: float) -> None:
        """Notes that a request was admitted at this loop time: if the process is killed, the next start finds it."""
        if not self._is_newer:
            self._journal.admitted(request, at, self._wall())

    def record(self, record: Record) -> None:
        """Queues a trace, and notes it in the journal."""
        ring = self._ring
        waiting = len(ring)
        if self._is_newer:
            self._dropped += 1
            return
        if waiting >= self._ring_rows:
            self._drop_oldest()
        wall_s = self._wall()
        number = self._journal.ended(record, wall_s, record.outcome is not Outcome.RETRIED)
        ring.append((record, wall_s, self._fingerprint, number))
        if waiting == 0:
            self._has_work.set()
        elif waiting == self._settings.batch_rows:
            self._flush_now.set()

    def record_learned(self, values: Iterable[LearnedValue]) -> None:
        """Queues learned estimates; they are written after the traces."""
        if not self._is_newer:
            self._learned.extend(values)
            self._has_work.set()

    def audit(self, entry: audit_log.AuditEntry) -> None:
        """Queues an administrative change; it is written at once."""
        if not self._is_newer:
            self._audit_entries.append(entry)
            self._has_work.set()
            self._flush_now.set()

    def set_rules(self, rules: DecisionRules) -> None:
        """Makes these rules the active ones: new rows have their fingerprint."""
        self._rules, self._fingerprint = rules, rules.fingerprint
        self.write(lambda connection: learned_state.insert_rules(connection, rules, self._wall()))

    def write(self, job: WriteJob) -> None:
        """Queues a job; it runs after the traces are written."""
        if not self._is_newer:
            self._jobs.append(job)
            self._has_work.set()

    def started_s(self) -> float:
        """The unix time from which the ages of stored rows are counted. Called before requests are served."""
        return self._steady_s()

    def _steady_s(self) -> float:
        return self._retention.now_s(self._wall(), self._monotonic())

    def _drop_oldest(self) -> None:
        try:
            self._ring.popleft()
        except IndexError:
            # The writer's thread has just emptied the ring.
            return
        self._dropped += 1

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Writes everything queued so far; False when that failed. For shutdown and tests."""
        done: Future[bool] = Future()
        self._flushes.append(done)
        self._has_work.set()
        self._flush_now.set()
        try:
            return done.result(timeout_s)
        except TimeoutError:
            return False

    def close(self, timeout_s: float = 10.0) -> None:
        """Writes what can be written, stops the thread, unlocks the folder. The log counts the records that were
        lost."""
        writer, is_saved = self._writer, False
        if self._closing.is_set():
            return
        if writer is not None:
            is_saved = self.flush(timeout_s)
            if not is_saved:
                log.warning(
                    "traces were lost at shutdown", extra={"count": self.state.waiting, "problem": self._problem}
                )
            self._closing.set()
            self._has_work.set()
            self._flush_now.set()
            writer.join(timeout_s)
        self._closing.set()
        self._journal.close(is_saved)
        self.reader.close(timeout_s)
        if writer is None or not writer.is_alive():
            self._database.disconnect()
        if self._lock is not None:
            self._lock.release()

    @property
    def state(self) -> StoreState:
        return StoreState(
            saved=self._saved,
            waiting=len(self._ring) + len(self._batch) + self._unconfirmed,
            dropped=self._dropped,
            unusable=self._unusable,
            failing_since=self._failing_since,
            problem=self._problem,
            oldest_s=self._oldest_s(),
        )

    def _oldest_s(self) -> float:
        for queue in (self._batch, self._ring):
            try:
                return max(0.0, self._wall() - queue[0][1])
            except IndexError:
                # It is empty, or the writer's thread has just emptied it.
                continue
        return 0.0

    async def ask(
        self,
        query: Callable[Concatenate[sqlite3.Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """See `TraceReader.ask`."""
        return await self.reader.ask(query, *args, **kwargs)

    def read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """See `TraceReader.read`."""
        return self.reader.read(query, *args, **kwargs)

    # --- the writer's thread ---

    def _write_forever(self) -> None:
        while not self._closing.is_set():
            self._has_work.wait()
            self._flush_now.wait(self._settings.flush_interval_s)
            self._write_queued()

    def _write_queued(self) -> None:
        """Writes what was queued until now; what cannot be written now is tried again."""
        self._has_work.clear()
        self._flush_now.clear()
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        try:
            self._drain()
            self._roll_up(is_complete=bool(flushes))
        except Exception as error:  # the outermost frame of the thread: nothing would be recorded any more
            log.exception("internal invariant violated: the store's thread failed")
            self._fail(error)
        if self._ring or self._batch or self._audit_entries or self._jobs or self._learned or self._unwritten:
            self._has_work.set()
        elif self._problem and not self._is_newer:
            self._has_work.set()  # nothing waits, but only another try shows that the problem is gone
        for flushed in flushes:
            left = self._batch or self._unconfirmed or self._audit_entries or self._jobs or self._unwritten
            flushed.set_result(not left and not self._problem)

    def _drain(self) -> None:
        """Writes batch after batch until the ring is empty or a write fails."""
        if not self._is_recovered:
            try:
                self._recover_journals()
            except WRITE_ERRORS as error:
                self._fail(error)
                return
            self._recover()
        while self._ring or self._batch:
            ring, free = self._ring, self._settings.batch_rows - len(self._batch)
            self._batch.extend(ring.popleft() for _ in range(min(free, len(ring))))
            try:
                self._insert_batch(self._batch)
            except WRITE_ERRORS as error:
                self._fail(error)
                return
            self._unconfirmed += len(self._batch)
            self._committed_number = self._batch[-1][3]
            self._batch.clear()
            if not self._confirm():
                return
        if not self._confirm():
            return
        self._write_audit_entries()
        self._run_jobs()
        self._write_learned()
        self._trim()

    def _confirm(self) -> bool:
        """Counts the committed rows as saved if they are in the database at its path; False if they are not yet."""
        was_failing = bool(self._problem) and not self._is_newer
        if was_failing or (self._database.open_connection is not None and not self._database.is_at_its_path()):
            try:
                self._database.connection()
            except WRITE_ERRORS as error:
                self._fail(error)
                return False
            self._recover()
        if self._unconfirmed:
            self._saved += self._unconfirmed
            self._unconfirmed = 0
            self._journal.saved(self._committed_number)
            self._recover()
        return True

    def _recover_journals(self) -> None:
        """Adds the traces that earlier runs could not write. Raises `WRITE_ERRORS`."""
        ended, lost = recovery.recover(self._database.connection(), self._journal.folder, self._journal.run)
        self._is_recovered = True
        if ended or lost:
            log.warning(
                "the coordinator was killed: its last traces were recovered from the journal",
                extra={"ended": ended, "lost": lost},
            )

    def _insert_batch(self, batch: list[PendingRecord]) -> None:
        """One transaction. Rows are made a few at a time between SQLite's statements, so that the event
        loop can run."""
        connection = self._database.connection()
        connection.execute("BEGIN IMMEDIATE")
        newest_before = connection.execute(NEWEST_TRACE).fetchone()
        rows = map(astuple, self._rows(batch))
        while len(some := list(islice(rows, ROWS_PER_INSERT))) == ROWS_PER_INSERT:
            connection.execute(INSERT_TRACES, tuple(chain.from_iterable(some)))
        connection.executemany(INSERT_TRACE, some)
        connection.execute(INSERT_LATENCIES, newest_before)
        progress.advance(connection, self._journal.run, batch[-1][3])
        connection.execute("COMMIT")

    def _rows(self, batch: Iterable[PendingRecord]) -> Iterator[TraceRow]:
        candidates_max = self._settings.candidates_max
        for record, wall_at, rules, _ in batch:
            try:
                yield trace_row(record, wall_at, candidates_max, rules)
            except Exception as error:  # noqa: BLE001 - one invalid record must not prevent the others from being written
                self._unusable += 1
                log.warning(
                    "a trace could not be converted to a row",
                    extra={"request_id": record.request.id, "problem": str(error)},
                )

    def _write_audit_entries(self) -> None:
        entries = list(self._audit_entries)
        if not entries:
            return
        try:
            audit_log.insert_entries(self._database.connection(), entries)
        except WRITE_ERRORS as error:
            self._fail(error)
            return
        for _ in entries:
            self._audit_entries.popleft()
        self._recover()

    def _run_jobs(self) -> None:
        while self._jobs:
            job = self._jobs[0]
            try:
                job(self._database.connection())
            except WRITE_ERRORS as error:
                self._fail(error)
                return
            except Exception:
                self._jobs.popleft()  # a bug of the job, which would prevent all that follow it
                raise
            self._jobs.popleft()
            self._recover()

    def _write_learned(self) -> None:
        while self._learned:
            value = self._learned.popleft()
            self._unwritten[value.kind, value.subject, value.model] = value
        if not self._unwritten:
            return
        try:
            learned_state.upsert(self._database.connection(), self._unwritten.values(), self._steady_s())
        except WRITE_ERRORS as error:
            self._fail(error)
            return
        self._unwritten.clear()
        self._recover()

    def _roll_up(self, is_complete: bool) -> None:
        """Adds new traces to the sums behind the pages: one step, so that rows and jobs never wait for many; up to
        `FLUSH_STEPS_MAX` if `is_complete`. The next steps follow at once."""
        now = self._monotonic()
        connection = self._database.open_connection
        if connection is None or not (is_complete or now - self._rolled_at >= self._settings.rollup_interval_s):
            return
        try:
            for _ in range(FLUSH_STEPS_MAX if is_complete else 1):
                if not (advance.advance(connection, self._wall()) or moving.advance(connection)):
                    self._rolled_at = now
                    break
            else:
                self._has_work.set()
                self._flush_now.set()
            self._is_rollup_failing = False
        except sqlite3.Error as error:
            self._fail_rollup(error)
            self._rolled_at = now

    def _fail_rollup(self, error: sqlite3.Error) -> None:
        """Traces are still written; a later roll-up includes them when the error is gone."""
        connection = self._database.open_connection
        if is_damage(error, self.path) or connection is None:
            self._fail(error)
            return
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not self._is_rollup_failing:
            log.warning("the chart roll-ups cannot be updated; retrying", extra={"problem": str(error)})
        self._is_rollup_failing = True

    def _trim(self) -> None:
        settings, now = self._settings, self._monotonic()
        connection = self._database.open_connection
        if connection is None or now - self._trimmed_at < settings.trim_interval_s:
            return
        try:
            while self._retention.trim(connection, self._wall(), now):
                if self._ring:
                    # New rows go first; the remaining old rows are deleted after the next batch.
                    return
        except sqlite3.Error as error:
            self._fail(error)
        self._trimmed_at = now

    # --- opening, failing, recovering ---

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Called with each new connection."""
        backlog.open_gap(connection)
        if not self._has_started_ages:
            self._retention.start(connection, self._wall(), self._monotonic())
            self._has_started_ages = True
        if self._rules is not None:
            learned_state.insert_rules(connection, self._rules, self._wall())

    def _fail(self, error: Exception) -> None:
        """Stores the problem and logs it once. The next write tries again, with a new connection if that may help."""
        try:
            self._database.recover_from(error)
            if isinstance(error, sqlite3.Error) and is_damage(error, self.path):
                return
        except (OSError, sqlite3.Error) as worse:
            error = worse
        self._is_newer = isinstance(error, NewerSchema)
        if self._is_newer:
            self._dropped += len(self._ring) + len(self._batch)
            for queue in (self._ring, self._batch, self._audit_entries, self._jobs, self._learned, self._unwritten):
                queue.clear()
        if self._failing_since is None:
            self._failing_since = self._wall()
            log.warning("traces are not being recorded; requests are still served", extra={"problem": str(error)})
        self._problem = str(error)

    def _recover(self) -> None:
        if self._failing_since is not None:
            log.info("traces are being recorded again", extra={"dropped": self._dropped})
        self._failing_since, self._problem = None, ""
