"""Defines the settings of the trace store, and the state that it reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How long to store traces, and how many to write in one transaction."""

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
            "help": "Number of traces to keep in memory while they cannot be written.",
            "min": 1,
            "max": 1_000_000,
        },
    )
    journal_bytes_max: int = field(
        default=64 * 1024 * 1024,
        metadata={
            "env": "FLEET_JOURNAL_MAX_BYTES",
            "help": "Maximum size of the journal, from which traces are recovered after a crash, in bytes.",
            "min": 1024 * 1024,
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
            "help": "Seconds between updates of the chart roll-ups.",
            "min": 0,
            "max": 300,
        },
    )
    minutes_days: float = field(
        default=16.0,
        metadata={
            "env": "FLEET_ROLLUP_MINUTES_DAYS",
            "help": "Days to keep the chart roll-ups per minute.",
            "min": 0.1,
        },
    )
    hours_days: float = field(
        default=400.0,
        metadata={"env": "FLEET_ROLLUP_HOURS_DAYS", "help": "Days to keep the chart roll-ups per hour.", "min": 1},
    )
    trim_interval_s: float = field(
        default=60.0,
        metadata={"env": "FLEET_TRACE_TRIM_SECONDS", "help": "Seconds between deletions of old rows.", "min": 0},
    )


@dataclass(frozen=True, slots=True)
class StoreState:
    """The store's state, for status and health. `failing_since` is unix time; `problem` is empty while writing
    succeeds.

    `saved`, `waiting` and `dropped` count records; `unusable` counts records that could not be converted to a row.
    `oldest_s` is the age of the oldest record that waits, in seconds.
    """

    saved: int
    waiting: int
    dropped: int
    unusable: int
    failing_since: float | None
    problem: str
    oldest_s: float = 0.0
