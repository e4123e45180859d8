"""Turns the journal of a run that was killed into traces, exactly once.

A request that had not ended becomes a trace with status `coordinator_lost`. The traces of a run are added in one
transaction with the run's progress, which then says that nothing is left; the files are removed after it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec.structs import astuple, replace

from herd.coordinator.storage.journal import progress
from herd.coordinator.storage.journal.files import Admission, EndedAttempt, Ending, files_of_runs, frames
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES, INSERT_TRACE, NEWEST_TRACE, TraceRow, trace_row
from herd.core.state.commands import Record
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Attempt, Counters, Failure, FailureKind, Outcome, Request, RequestId, RequestKind

LOST_STATUS = "coordinator_lost"
LOST_MESSAGE = "the coordinator ended before the request did"


def recover(connection: sqlite3.Connection, folder: Path, current_run: str) -> tuple[int, int]:
    """Adds the missing traces of earlier runs and removes their journals. Returns how many ended, and how many were
    lost.

    Expects a connection in autocommit mode. Raises `sqlite3.Error` and `OSError`; calling it again continues.
    """
    ended = lost = 0
    for run, paths in files_of_runs(folder, current_run).items():
        saved = progress.of_run(connection, run)
        rows = list(_missing_rows(paths, saved)) if saved < progress.NOTHING_LEFT else []
        connection.execute("BEGIN IMMEDIATE")
        newest_before = connection.execute(NEWEST_TRACE).fetchone()
        connection.executemany(INSERT_TRACE, map(astuple, rows))
        connection.execute(INSERT_LATENCIES, newest_before)
        progress.advance(connection, run, progress.NOTHING_LEFT)
        connection.execute("COMMIT")
        for path in paths:
            path.unlink(missing_ok=True)
        progress.forget(connection, run)
        lost_now = sum(row.status == LOST_STATUS for row in rows)
        ended, lost = ended + len(rows) - lost_now, lost + lost_now
    return ended, lost


def _missing_rows(paths: Iterable[Path], saved: int) -> Iterator[TraceRow]:
    running: dict[str, Admission] = {}
    last_wall_s = 0.0
    for path in paths:
        for admissions, endings in frames(path):
            running.update((one.id, one) for one in admissions)
            for ending in endings:
                admission = running.get(ending.id)
                if ending.outcome != Outcome.RETRIED.value:
                    running.pop(ending.id, None)
                if ending.number > saved and admission is not None:
                    yield _ended_row(admission, ending)
            last_wall_s = max([last_wall_s, *(one.wall_s for one in admissions), *(one.wall_s for one in endings)])
    for admission in running.values():
        yield _lost_row(admission, last_wall_s)


def _request(admission: Admission) -> Request:
    return Request(
        id=RequestId(admission.id),
        model=ModelName(admission.model),
        requested_name=admission.requested_name,
        dialect=admission.dialect,
        kind=RequestKind(admission.kind),
        stream=admission.stream,
        client_ip=admission.client_ip,
        tags=admission.tags,
        key_id=admission.key_id,
        prompt_tokens=admission.prompt_tokens,
        size_bytes=admission.size_bytes,
        user=admission.user,
        app=admission.app,
    )


def _ended_row(admission: Admission, ending: Ending) -> TraceRow:
    record = Record(
        at=ending.at,
        request=_request(admission),
        outcome=Outcome(ending.outcome),
        arrived_at=ending.arrived_at,
        model=ModelName(ending.model),
        attempt=_attempt(ending.attempt, ending.model) if ending.attempt is not None else None,
        counters=Counters(*ending.counters),
        retries=ending.retries,
        fallback_used=ending.fallback_used,
        excluded=tuple(NodeId(name) for name in ending.excluded),
        error=ending.error,
        first_byte_at=ending.first_byte_at,
        held_s=ending.held_s,
    )
    row = trace_row(record, ending.wall_s, 0)
    return replace(row, policy=ending.policy, node_id=row.node_id or ending.chosen or "")


def _attempt(ended: EndedAttempt, model: str) -> Attempt:
    return Attempt(
        number=ended.number,
        node_id=NodeId(ended.node_id),
        model=ModelName(model),
        started_at=ended.started_at,
        failure=Failure(kind=FailureKind(ended.failure)) if ended.failure is not None else None,
        is_truncated=ended.is_truncated,
        without_effect=ended.without_effect,
    )


def _lost_row(admission: Admission, last_wall_s: float) -> TraceRow:
    """Its end is the time of the newest entry of the journal: the coordinator was alive until then at least."""
    lasted_s = max(0.0, last_wall_s - admission.wall_s)
    record = Record(
        at=admission.at + lasted_s,
        request=_request(admission),
        outcome=Outcome.FAILED,
        arrived_at=admission.at,
        model=ModelName(admission.model),
        error=LOST_MESSAGE,
    )
    return replace(trace_row(record, admission.wall_s + lasted_s, 0), status=LOST_STATUS)
