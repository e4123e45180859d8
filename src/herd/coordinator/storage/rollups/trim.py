"""Deletes old sums, a few thousand rows in each step."""

from __future__ import annotations

import sqlite3

from herd.coordinator.storage.rollups.tables import DAY_S, HOUR_S, KINDS, MINUTE_S

STEP_ROWS = 2_000
"""Rows deleted in one transaction."""
SUBJECTS_PER_STEP = 500

_LAST_SUBJECT = "SELECT MAX(id) FROM (SELECT id FROM sum_subjects WHERE id > ? ORDER BY id LIMIT ?)"
_OLD = """DELETE FROM {table} WHERE (kind, size, subject, bucket{more}) IN (
    SELECT r.kind, r.size, r.subject, r.bucket{more} FROM sum_subjects s
        JOIN (SELECT column1 AS kind, column2 AS size, column3 AS before FROM (VALUES {ages})) a ON a.kind = s.kind
        CROSS JOIN {table} r ON r.kind = s.kind AND r.size = a.size AND r.subject = s.id AND r.bucket < a.before
    WHERE s.id > :after AND s.id <= :last LIMIT :rows)"""
_AGES = ", ".join(
    f"({kind.number}, {size}, " + (f"MAX(:minutes, :now - {kind.minutes_s}))" if size == MINUTE_S else ":hours)")
    for kind in KINDS
    for size in kind.sizes
)
_DELETE_OLD = (
    _OLD.format(table="sums", more="", ages=_AGES),
    _OLD.format(table="sum_bins", more=", measure, bin", ages=_AGES),
)
_SIZES = f"({MINUTE_S}, {HOUR_S}, {DAY_S})"
_RESERVED_MAX = max(kind.beyond_limit for kind in KINDS)
BEFORE_ALL = min(0, min(kind.beyond_limit for kind in KINDS) - 1)
"""Every subject's id is above this, also the reserved ones."""
_DELETE_UNUSED = f"""DELETE FROM sum_subjects WHERE id > MAX(?, {_RESERVED_MAX}) AND id <= ? AND NOT EXISTS (
    SELECT 1 FROM sums r WHERE r.kind = sum_subjects.kind AND r.size IN {_SIZES}
        AND r.subject = sum_subjects.id)"""  # noqa: S608 - only constants


def trim(connection: sqlite3.Connection, now: float, minutes_days: float, hours_days: float, after: int) -> int | None:
    """Deletes old sums of the next subjects after this id. Returns the id to continue after; None when all are trimmed.

    `now` is unix time. Sums per day are deleted at the age of sums per hour. Raises `sqlite3.Error`.
    """
    last = connection.execute(_LAST_SUBJECT, (after, SUBJECTS_PER_STEP)).fetchone()[0]
    if last is None:
        return None
    ages = {"minutes": now - minutes_days * DAY_S, "hours": now - hours_days * DAY_S, "now": now}
    bound = {**ages, "after": after, "last": last, "rows": STEP_ROWS}
    deleted = max(connection.execute(sql, bound).rowcount for sql in _DELETE_OLD)
    if deleted == STEP_ROWS:
        return after
    connection.execute(_DELETE_UNUSED, (after, last))
    return int(last)
