"""Adds traces to the sums, a few thousand in each transaction: new ones first, then older ones, newest first.

SQLite does all the work, on the writer's thread and without the interpreter. Sums and progress change in one
transaction: after a crash no trace is lost or counted twice. Traces with the same minute, node, model, app, tags and
key are summed up first; only these sums are added to the sums of each kind.
"""

from __future__ import annotations

import sqlite3

from herd.coordinator.storage.rollups import backlog, fresh, tables
from herd.coordinator.storage.rollups.tables import COLUMN_OF, COLUMNS, EARLIER_KINDS, KINDS, MINUTE_S, Kind

ROWS_PER_STEP = 5_000
"""Traces summed up in one transaction: about 100 ms."""

BEHIND = """SELECT 1 FROM sum_progress
    WHERE gap_until > gap_after OR EXISTS (SELECT 1 FROM request_traces WHERE id > trace_id)"""
_GROUPED = ("bucket", "node_id", "model", "app_kind", "app", "user_kind", "user", "tags", "key_id", "dialect")
_CONDITIONS = ("original_model", "request_kind", "status", "fallback_used", "is_moved")
"""The columns that `Kind.where` uses, with as few different values as these conditions need."""
_GROUP = ", ".join((*_GROUPED, *_CONDITIONS))
_BIN_GROUP = "bucket, node_id, model, app_kind, app"
_PREPARED = (
    f"CREATE TEMP TABLE IF NOT EXISTS fresh ({', '.join(fresh.NAMES)}, is_moved)",
    f"CREATE TEMP TABLE IF NOT EXISTS alike ({_GROUP}, {', '.join(column.name for column in COLUMNS)})",
    f"CREATE TEMP TABLE IF NOT EXISTS alike_bins ({_BIN_GROUP}, measure, bin, count)",
    "DELETE FROM temp.fresh",
    "DELETE FROM temp.alike",
    "DELETE FROM temp.alike_bins",
)
_COPY = """INSERT INTO temp.fresh SELECT *,
        timestamp < (SELECT moved_before FROM sum_progress) AND id <= (SELECT moved_id FROM sum_progress)
    FROM ({} LIMIT ?)"""
_COPY_NEW = _COPY.format(f"{fresh.SELECT} ORDER BY id")
_COPY_OLDER = _COPY.format(f"{fresh.SELECT_OLDER} ORDER BY id DESC")
_COMBINED = ", ".join(f"{column.combined_by}({column.value})" for column in COLUMNS)
_SUM_ALIKE = f"""INSERT INTO temp.alike SELECT {", ".join(_GROUPED)},
        CASE WHEN fallback_used THEN original_model ELSE '' END, CASE request_kind WHEN 'info' THEN 'info' ELSE '' END,
        CASE status WHEN 'retried' THEN 'retried' ELSE '' END, fallback_used, is_moved, {_COMBINED}
    FROM temp.fresh GROUP BY {", ".join(str(number + 1) for number in range(len(_GROUPED) + len(_CONDITIONS)))}
    """  # noqa: S608
_MEASURED = (
    "status = 'completed' AND ttft_ms IS NOT NULL",
    "status = 'completed' AND latency_ms IS NOT NULL",
    "status <> 'retried'",
    "status = 'completed' AND prompt_tokens + completion_tokens > 0",
)
_VALUES = " UNION ALL ".join(
    f"SELECT {_BIN_GROUP}, {number} AS measure, {value} AS value FROM temp.fresh "  # noqa: S608
    f"WHERE request_kind <> 'info' AND NOT is_moved AND {condition}"
    for number, value, condition in zip(
        (1, 2, 3, 4), ("ttft_ms", "latency_ms", "held_ms", "prompt_tokens + completion_tokens"), _MEASURED, strict=True
    )
)
_COUNT_ALIKE = f"""INSERT INTO temp.alike_bins SELECT {_BIN_GROUP}, measure,
        (SELECT bin FROM rollup_edges WHERE low <= MAX(value, 0) ORDER BY low DESC LIMIT 1), COUNT(*)
    FROM ({_VALUES}) GROUP BY 1, 2, 3, 4, 5, 6, 7"""  # noqa: S608
_ADVANCE = "UPDATE sum_progress SET trace_id = MAX(trace_id, COALESCE((SELECT MAX(id) FROM temp.fresh), 0))"
_NARROW = """UPDATE sum_progress SET gap_until = CASE WHEN ? THEN gap_after ELSE
    MIN(gap_until, COALESCE((SELECT MIN(id) - 1 FROM temp.fresh), gap_until)) END"""


def new_subjects(kind: Kind, source: str, where: str) -> str:
    """The statement that adds the subjects of these rows, up to the limit (its parameter)."""
    return f"""INSERT OR IGNORE INTO sum_subjects (kind, a, b, c) SELECT DISTINCT {kind.number}, {kind.names}
        FROM {source}{kind.each} WHERE {where}
            AND (SELECT COUNT(*) FROM sum_subjects WHERE kind = {kind.number}) < ?"""  # noqa: S608


def _with_subject(kind: Kind, source: str) -> str:
    """These rows with the subject's row in `sum_subjects`, which is missing beyond the limit."""
    return (
        f"{source}{kind.each} LEFT JOIN sum_subjects s ON s.kind = {kind.number} AND (s.a, s.b, s.c) = ({kind.names})"
    )


def add_sums(kind: Kind, size: int, source: str, where: str, columns: tuple[str, ...]) -> str:
    """The statement that adds these columns of a table with combined rows to the sums of one kind and bucket size."""
    values = ", ".join(f"{COLUMN_OF[name].combined_by}({name})" for name in columns)
    return f"""INSERT INTO sums (kind, size, subject, bucket, {", ".join(columns)})
        SELECT {kind.number}, {size}, COALESCE(s.id, {kind.beyond_limit}), bucket / {size} * {size}, {values}
        FROM {_with_subject(kind, source)} WHERE {where} GROUP BY 3, 4
        ON CONFLICT (kind, size, subject, bucket) DO UPDATE SET
            {", ".join(COLUMN_OF[name].added() for name in columns)}"""  # noqa: S608


def add_bins(kind: Kind, size: int, source: str, where: str) -> str:
    """The same for histograms."""
    measures = ", ".join(str(int(measure)) for measure in kind.measures)
    return f"""INSERT INTO sum_bins
        SELECT {kind.number}, {size}, COALESCE(s.id, {kind.beyond_limit}), bucket / {size} * {size}, measure, bin,
            SUM(count)
        FROM {_with_subject(kind, source)} WHERE {where} AND measure IN ({measures}) GROUP BY 3, 4, 5, 6
        ON CONFLICT (kind, size, subject, bucket, measure, bin)
        DO UPDATE SET count = count + excluded.count"""  # noqa: S608


def _where(kind: Kind, size: int = 0) -> str:
    moved = " AND NOT is_moved" if kind in EARLIER_KINDS else ""
    return kind.where + moved + _since(kind, size)


def _since(kind: Kind, size: int) -> str:
    return f" AND bucket >= :now - {kind.minutes_s}" if size == MINUTE_S else ""


_NEW_SUBJECTS = tuple(new_subjects(kind, "temp.alike", _where(kind)) for kind in KINDS if kind.subject)
_ADDITIONS = (
    *(add_sums(kind, size, "temp.alike", _where(kind, size), kind.columns) for kind in KINDS for size in kind.sizes),
    *(
        add_bins(kind, size, "temp.alike_bins", "true" + _since(kind, size))
        for kind in KINDS
        if kind.measures
        for size in kind.sizes
    ),
)


def advance(connection: sqlite3.Connection, now: float, rows: int = ROWS_PER_STEP) -> bool:
    """Sums up the next traces in one transaction; True if more are left. `now` is unix time: traces that ended long
    before it have no sums per minute.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; after a rollback nothing has changed.
    """
    if connection.execute(BEHIND).fetchone() is None:
        return False
    connection.execute("BEGIN IMMEDIATE")
    backlog.open_gap(connection)
    for statement in _PREPARED:
        connection.execute(statement)
    copied = connection.execute(_COPY_NEW, (rows,)).rowcount
    copied += connection.execute(_COPY_OLDER, (rows - copied,)).rowcount
    connection.execute(_SUM_ALIKE)
    connection.execute(_COUNT_ALIKE)
    for statement in _NEW_SUBJECTS:
        connection.execute(statement, (tables.SUBJECTS_MAX,))
    for statement in _ADDITIONS:
        connection.execute(statement, {"now": now})
    connection.execute(_ADVANCE)
    connection.execute(_NARROW, (copied < rows,))
    connection.execute("COMMIT")
    return copied == rows
