"""Moves the roll-ups of an older database into the sums, newest first, a few thousand rows in each transaction.

Only buckets before `moved_before` are added: the traces of later ones are summed up again, into more kinds.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from herd.coordinator.storage.rollups import tables
from herd.coordinator.storage.rollups.advance import add_bins, add_sums, new_subjects
from herd.coordinator.storage.rollups.tables import CHART_COLUMNS, DAY_S, EARLIER_KINDS, HOUR_S, MINUTE_S, Kind

ROWS_PER_STEP = 2_000
_SOURCES = (("minute", (MINUTE_S,)), ("hour", (HOUR_S, DAY_S)))
_SOURCE = """(SELECT bucket, node_id, model, app_kind, app, {columns} FROM temp.moved JOIN rollup_keys k ON k.id = key
    WHERE bucket < (SELECT moved_before FROM sum_progress))"""


def _columns(kind: Kind) -> tuple[str, ...]:
    return tuple(name for name in CHART_COLUMNS if name in kind.columns)


class Step(NamedTuple):
    """The statements that move rows of one table."""

    is_left: str
    copy: str
    subjects: tuple[str, ...]
    additions: tuple[str, ...]
    delete: str


def _step(size: str, sizes: tuple[int, ...], is_bins: bool) -> Step:
    table = f"rollup_{size}_bins" if is_bins else f"rollup_{size}s"
    keys = "bucket, key, measure, bin" if is_bins else "bucket, key"
    source = _SOURCE.format(columns="measure, bin, count" if is_bins else ", ".join(CHART_COLUMNS))
    kinds = [kind for kind in EARLIER_KINDS if kind.measures or not is_bins]
    return Step(
        is_left=f"SELECT 1 FROM {table} LIMIT 1",  # noqa: S608 - only constants
        copy=f"CREATE TEMP TABLE moved AS SELECT * FROM {table} ORDER BY bucket DESC LIMIT ?",  # noqa: S608
        subjects=tuple(new_subjects(kind, source, "true") for kind in kinds if kind.subject),
        additions=tuple(
            add_bins(kind, to, source, "true") if is_bins else add_sums(kind, to, source, "true", _columns(kind))
            for kind in kinds
            for to in sizes
        ),
        delete=f"DELETE FROM {table} WHERE ({keys}) IN (SELECT {keys} FROM temp.moved)",  # noqa: S608
    )


_STEPS = tuple(_step(size, sizes, is_bins) for size, sizes in _SOURCES for is_bins in (False, True))


def advance(connection: sqlite3.Connection, rows: int = ROWS_PER_STEP) -> bool:
    """Moves the next rows in one transaction; True if more are left.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; after a rollback nothing has changed.
    """
    for step in _STEPS:
        if connection.execute(step.is_left).fetchone() is not None:
            _move(connection, step, rows)
            return True
    return False


def _move(connection: sqlite3.Connection, step: Step, rows: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DROP TABLE IF EXISTS temp.moved")
    connection.execute(step.copy, (rows,))
    for statement in step.subjects:
        connection.execute(statement, (tables.SUBJECTS_MAX,))
    for statement in step.additions:
        connection.execute(statement)
    connection.execute(step.delete)
    connection.execute("COMMIT")
