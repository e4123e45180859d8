"""Defines the tables of sums: which kinds of subjects are summed, and which values.

    sum_subjects    what is summed: a pair of node and model, an app, a tag, a key, a user
    sums            per kind, bucket size, subject and bucket (its first second, unix time): counts and sums
    sum_bins        the same with a measure: the count of each bin of `rollup_edges`
    sum_progress    the id of the newest trace that is summed up; since schema 15 also the gap of `backlog.py`

A bucket has the requests that ended in it. Charts leave out `info` requests (questions about a model) and count a
`retried` row as a retry only; usage counts `info` requests. Buckets of a day are those of UTC.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from herd.core.state import refusals

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
SUBJECTS_MAX = 20_000
"""Maximum number of subjects of one kind; later ones are counted together."""
COLD_LOAD_MS = 500.0
"""A load of at least this duration is a cold load; a shorter time is the engine's own overhead."""
QUEUED_MIN_MS = 1000.0
"""A request rejected after this time was queued first; a request rejected sooner asked for something that does not
exist."""
OTHER = "(other)"
"""The name of the tags and keys beyond the limit."""


class Measure(IntEnum):
    """The values that have histograms: milliseconds, but for CONTEXT the tokens of prompt and answer together."""

    TTFT = 1
    LATENCY = 2
    WAIT = 3
    CONTEXT = 4


class Column(NamedTuple):
    """A column of `sums`: its value for one trace, in columns of `fresh.SELECT`, and how values are combined."""

    name: str
    value: str
    combined_by: str = "SUM"

    @property
    def type(self) -> str:
        return "REAL" if self.name.endswith(("_ms", "_at")) else "INTEGER"

    def added(self) -> str:
        """The assignment that adds a row to the one that has its key already."""
        both = f"{self.name}, excluded.{self.name}"
        return f"{self.name} = " + (f"MAX({both})" if self.combined_by == "MAX" else both.replace(",", " +"))


_TOO_LATE = refusals.RAN_TOO_LONG.message.replace("'", "''")
_DONE, _ENDED = "status = 'completed'", "status <> 'retried'"
COLUMNS = (
    Column("requests", _ENDED),
    Column("completed", _DONE),
    Column("failed", "status IN ('failed', 'failed_midstream', 'coordinator_lost')"),
    Column("rejected", "status = 'rejected'"),
    Column("cancelled", "status = 'client_cancelled'"),
    Column("retries", "status = 'retried'"),
    Column("fallbacks", f"fallback_used AND {_ENDED}"),
    Column("truncated", f"{_DONE} AND finish_reason = 'length'"),
    Column("cold_loads", f"load_ms >= {COLD_LOAD_MS}"),
    Column("load_ms", f"CASE WHEN load_ms >= {COLD_LOAD_MS} THEN load_ms ELSE 0 END"),
    Column("prompt_tokens", "prompt_tokens"),
    Column("completion_tokens", "completion_tokens"),
    Column("decode_ms", "CASE WHEN completion_tokens > 0 THEN COALESCE(decode_ms, 0) ELSE 0 END"),
    Column("decode_tokens", "CASE WHEN decode_ms > 0 THEN completion_tokens ELSE 0 END"),
    Column("prefill_ms", "CASE WHEN prompt_tokens > 0 THEN COALESCE(prefill_ms, 0) ELSE 0 END"),
    Column("prefill_tokens", "CASE WHEN prefill_ms > 0 THEN prompt_tokens ELSE 0 END"),
    Column("busy_ms", "CASE WHEN node_id <> '' THEN COALESCE(attempt_ms, latency_ms, 0) ELSE 0 END"),
    Column("last_at", "timestamp", "MAX"),
    Column("ended_tokens", f"CASE WHEN {_ENDED} THEN prompt_tokens + completion_tokens ELSE 0 END"),
    Column("latency_ms", f"CASE WHEN {_DONE} THEN COALESCE(latency_ms, 0) ELSE 0 END"),
    Column("latencies", f"{_DONE} AND latency_ms IS NOT NULL"),
    Column("ttft_ms", f"CASE WHEN {_DONE} THEN COALESCE(ttft_ms, 0) ELSE 0 END"),
    Column("ttfts", f"{_DONE} AND ttft_ms IS NOT NULL"),
    Column("silent", "failure IN ('first_byte_timeout', 'stalled')"),
    Column("refused", "failure = 'connect'"),
    Column("waited_ms", f"CASE WHEN {_ENDED} THEN held_ms ELSE 0 END"),
    Column("link_ms", "COALESCE(link_ms, 0)"),
    Column("links", "link_ms IS NOT NULL"),
    Column("late_rejects", f"status = 'rejected' AND held_ms >= {QUEUED_MIN_MS}"),
    Column("too_late", f"{_ENDED} AND error_message = '{_TOO_LATE}'"),
    Column("prompt_max", "prompt_tokens", "MAX"),
    Column("longest", "MAX(estimated_tokens, prompt_tokens + completion_tokens)", "MAX"),
    Column("failed_id", "CASE WHEN status IN ('failed', 'failed_midstream') THEN id ELSE 0 END", "MAX"),
)
COLUMN_OF = MappingProxyType({column.name: column for column in COLUMNS})
_LONG_SIZES = (HOUR_S, DAY_S)
_CHART_MINUTES_S = 16 * DAY_S
CHART_COLUMNS = tuple(column.name for column in COLUMNS[:18])
"""`SUMS` and `last_at`."""
SUMS = CHART_COLUMNS[:-1]
"""The sums behind the charts."""
_USAGE_COLUMNS = (
    *("requests", "completed", "failed", "rejected", "cancelled", "retries", "fallbacks", "prompt_tokens"),
    *("completion_tokens", "ended_tokens", "latency_ms", "latencies", "ttft_ms", "ttfts", "last_at"),
)


USER_NUMBER = 10


class Kind(NamedTuple):
    """One kind of subjects. `subject` has up to three names, in columns of `fresh.SELECT`; `where` says which traces
    count, `measures` which histograms exist, `other` the names of the subjects beyond the limit. `each` is joined to
    the traces. Sums per minute exist for `minutes_s`."""

    number: int
    subject: tuple[str, ...]
    where: str
    columns: tuple[str, ...]
    sizes: tuple[int, ...] = (MINUTE_S, HOUR_S, DAY_S)
    minutes_s: int = 26 * HOUR_S
    measures: tuple[Measure, ...] = ()
    other: tuple[str, ...] = ("", "", "")
    each: str = ""

    @property
    def beyond_limit(self) -> int:
        """The id of the subject for everything beyond the limit; ids from 1 to 9 were reserved in schema 12."""
        return self.number if self.number < USER_NUMBER else -self.number

    @property
    def names(self) -> str:
        """Three expressions, as SQL."""
        return ", ".join((*self.subject, "''", "''", "''")[:3])


_CHART = "request_kind <> 'info'"
_TIMES = (Measure.TTFT, Measure.LATENCY, Measure.WAIT)
ALL = Kind(1, (), _CHART, tuple(column.name for column in COLUMNS), minutes_s=_CHART_MINUTES_S, measures=_TIMES)
PAIR = Kind(2, ("node_id", "model"), _CHART, ALL.columns, minutes_s=_CHART_MINUTES_S, measures=tuple(Measure))
APP = Kind(3, ("app_kind", "app"), _CHART, CHART_COLUMNS, measures=_TIMES, other=("other", "", ""))
APP_MODEL = Kind(4, ("app_kind", "app", "model"), _CHART, ("requests",), other=("other", "", ""))
APP_DIALECT = Kind(5, ("app_kind", "app", "dialect"), f"{_CHART} AND {_ENDED}", ("requests",), other=("other", "", ""))
FALLBACK = Kind(6, ("original_model", "model"), f"{_CHART} AND fallback_used AND {_ENDED}", ("fallbacks",))
USAGE = Kind(7, ("node_id", "model"), "true", _USAGE_COLUMNS, _LONG_SIZES)
TAG = Kind(
    8,
    ("COALESCE(CAST(each_tag.value AS TEXT), '')",),
    _ENDED,
    _USAGE_COLUMNS,
    other=(OTHER, "", ""),
    each=", json_each(tags) AS each_tag",
)
KEY = Kind(
    9, ("key_id",), f"{_ENDED} AND key_id IS NOT NULL", (*_USAGE_COLUMNS, "busy_ms"), _LONG_SIZES, other=(OTHER, "", "")
)
USER = Kind(
    USER_NUMBER, ("user_kind", "user"), "true", (*_USAGE_COLUMNS, "busy_ms"), _LONG_SIZES, other=("other", "", "")
)
KINDS = (ALL, PAIR, APP, APP_MODEL, APP_DIALECT, FALLBACK, USAGE, TAG, KEY, USER)
EARLIER_KINDS = (ALL, PAIR, APP, APP_MODEL)
"""The kinds that can be made of the roll-ups of schema 5 to 11."""

_DEFINED = ", ".join(f"{one.name} {one.type} NOT NULL DEFAULT 0" for one in COLUMNS)
TABLES = (
    """CREATE TABLE IF NOT EXISTS sum_subjects (
        id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, a TEXT NOT NULL, b TEXT NOT NULL, c TEXT NOT NULL,
        UNIQUE (kind, a, b, c)
    )""",
    *(
        f"INSERT OR IGNORE INTO sum_subjects VALUES ({one.beyond_limit}, {one.number}, "  # noqa: S608
        f"'{one.other[0]}', '{one.other[1]}', '{one.other[2]}')"
        for one in KINDS
    ),
    f"""CREATE TABLE IF NOT EXISTS sums (
        kind INTEGER NOT NULL, size INTEGER NOT NULL, subject INTEGER NOT NULL, bucket INTEGER NOT NULL, {_DEFINED},
        PRIMARY KEY (kind, size, subject, bucket)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS sum_bins (
        kind INTEGER NOT NULL, size INTEGER NOT NULL, subject INTEGER NOT NULL, bucket INTEGER NOT NULL,
        measure INTEGER NOT NULL, bin INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (kind, size, subject, bucket, measure, bin)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS sum_progress (
        one INTEGER PRIMARY KEY CHECK (one = 1), trace_id INTEGER NOT NULL, moved_id INTEGER NOT NULL,
        moved_before INTEGER NOT NULL
    )""",
    # Traces whose hour is complete in the earlier roll-ups, but perhaps not in the traces, are not summed up again.
    f"""INSERT OR IGNORE INTO sum_progress (one, trace_id, moved_id, moved_before) SELECT 1, 0, trace_id,
        CASE WHEN trace_id > 0 AND (SELECT MIN(id) FROM request_traces) > 1
            THEN (CAST((SELECT MIN(timestamp) FROM request_traces) / {HOUR_S} AS INTEGER) + 1) * {HOUR_S} ELSE 0 END
        FROM rollup_progress""",  # noqa: S608
)
