"""Defines the schema of the trace database, and the steps that migrate an older database to it.

Step 1: the schema of ollama-herd 0.11; older ones (`user_version` 0) get its missing columns. Step 2: more columns of
traces. Step 3: decision rules and learned estimates. Step 4: the audit, and the key of a request. Step 5: roll-ups
per minute and per hour, and the history of nodes. Step 6: changed settings. Step 7: whether a prompt was truncated.
Step 8: fields of a request without effect. Step 9: what was repaired in tool calls. Step 10: how far the
journal of a run was written to the traces. Step 11: indexes for pages of the dashboard. Step 12: sums by
node and model, app, tag and key, and an index for filtered lists. Step 13: the user and the app of a request, and sums
by user. Step 14: results of herd certify. Each step only adds tables,
columns and indexes: ollama-herd can still open the file.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from herd.coordinator.storage import node_history, setting_changes
from herd.coordinator.storage.journal import progress
from herd.coordinator.storage.model_tests import conformance
from herd.coordinator.storage.rollups import backlog, earlier, tables

SCHEMA_VERSION = 15


@dataclass(frozen=True, slots=True)
class MigrationStep:
    """What one version adds. A step may be applied twice. `columns` are ALTER statements; only missing columns are
    added."""

    version: int
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    indexes: tuple[str, ...]
    set_version: str
    """The statement that sets `user_version`."""


STEPS = (
    MigrationStep(
        version=1,
        tables=(
            """CREATE TABLE IF NOT EXISTS request_traces (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                request_id TEXT NOT NULL,
                model TEXT NOT NULL,
                original_model TEXT NOT NULL,
                node_id TEXT NOT NULL,
                score REAL,
                scores_breakdown TEXT,
                status TEXT NOT NULL,
                latency_ms REAL,
                time_to_first_token_ms REAL,
                prompt_tokens INTEGER,
                completion_tokens INTEGER,
                retry_count INTEGER DEFAULT 0,
                fallback_used INTEGER DEFAULT 0,
                excluded_nodes TEXT,
                client_ip TEXT,
                original_format TEXT,
                error_message TEXT,
                timestamp REAL NOT NULL
            )""",
            """CREATE TABLE IF NOT EXISTS latency_observations (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                node_id TEXT NOT NULL,
                model_name TEXT NOT NULL,
                latency_ms REAL NOT NULL,
                tokens_generated INTEGER,
                timestamp REAL NOT NULL
            )""",
            """CREATE TABLE IF NOT EXISTS benchmark_runs (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                run_id TEXT NOT NULL UNIQUE,
                timestamp REAL NOT NULL,
                duration_s REAL NOT NULL,
                total_requests INTEGER NOT NULL,
                total_failures INTEGER NOT NULL,
                total_prompt_tokens INTEGER NOT NULL,
                total_completion_tokens INTEGER NOT NULL,
                requests_per_sec REAL,
                tokens_per_sec REAL,
                latency_p50_ms REAL,
                latency_p95_ms REAL,
                latency_p99_ms REAL,
                ttft_p50_ms REAL,
                ttft_p95_ms REAL,
                ttft_p99_ms REAL,
                fleet_snapshot TEXT,
                per_model_results TEXT,
                per_node_results TEXT,
                peak_utilization TEXT
            )""",
        ),
        columns=(
            "ALTER TABLE request_traces ADD COLUMN tags TEXT",
            "ALTER TABLE request_traces ADD COLUMN finish_reason TEXT",
            "ALTER TABLE request_traces ADD COLUMN estimated_tokens INTEGER",
            "ALTER TABLE latency_observations ADD COLUMN prompt_tokens INTEGER",
            "ALTER TABLE latency_observations ADD COLUMN completion_tokens INTEGER",
        ),
        indexes=(
            "CREATE INDEX IF NOT EXISTS idx_traces_request_id ON request_traces(request_id)",
            "CREATE INDEX IF NOT EXISTS idx_traces_timestamp ON request_traces(timestamp)",
            "CREATE INDEX IF NOT EXISTS idx_traces_node_model ON request_traces(node_id, model)",
            "CREATE INDEX IF NOT EXISTS idx_latency_timestamp ON latency_observations(timestamp)",
            "CREATE INDEX IF NOT EXISTS idx_benchmark_runs_timestamp ON benchmark_runs(timestamp)",
        ),
        set_version="PRAGMA user_version = 1",
    ),
    MigrationStep(
        version=2,
        tables=(),
        columns=(
            "ALTER TABLE request_traces ADD COLUMN kind TEXT",
            "ALTER TABLE request_traces ADD COLUMN stream INTEGER",
            "ALTER TABLE request_traces ADD COLUMN attempt INTEGER",
            "ALTER TABLE request_traces ADD COLUMN attempt_ms REAL",
            "ALTER TABLE request_traces ADD COLUMN held_ms REAL",
            "ALTER TABLE request_traces ADD COLUMN cached_tokens INTEGER",
            "ALTER TABLE request_traces ADD COLUMN load_ms REAL",
            "ALTER TABLE request_traces ADD COLUMN prefill_ms REAL",
            "ALTER TABLE request_traces ADD COLUMN decode_ms REAL",
            "ALTER TABLE request_traces ADD COLUMN size_bytes INTEGER",
            "ALTER TABLE request_traces ADD COLUMN failure TEXT",
            "ALTER TABLE request_traces ADD COLUMN policy TEXT",
            "ALTER TABLE request_traces ADD COLUMN candidates TEXT",
        ),
        indexes=(
            "CREATE INDEX IF NOT EXISTS idx_latency_pair_newest ON latency_observations(node_id, model_name, id)",
        ),
        set_version="PRAGMA user_version = 2",
    ),
    MigrationStep(
        version=3,
        tables=(
            """CREATE TABLE IF NOT EXISTS decision_rules (
                fingerprint TEXT PRIMARY KEY,
                policy TEXT NOT NULL,
                weights TEXT NOT NULL,
                first_at REAL NOT NULL
            )""",
            """CREATE TABLE IF NOT EXISTS learnt (
                kind TEXT NOT NULL,
                subject TEXT NOT NULL,
                model TEXT NOT NULL,
                numbers TEXT NOT NULL,
                learnt_at REAL NOT NULL,
                PRIMARY KEY (kind, subject, model)
            )""",
        ),
        columns=(),
        indexes=("CREATE INDEX IF NOT EXISTS idx_learnt_at ON learnt(learnt_at)",),
        set_version="PRAGMA user_version = 3",
    ),
    MigrationStep(
        version=4,
        tables=(
            """CREATE TABLE IF NOT EXISTS audit (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                at REAL NOT NULL,
                what TEXT NOT NULL,
                who TEXT NOT NULL,
                ip TEXT NOT NULL,
                about TEXT NOT NULL
            )""",
        ),
        columns=("ALTER TABLE request_traces ADD COLUMN key_id TEXT",),
        indexes=(),
        set_version="PRAGMA user_version = 4",
    ),
    MigrationStep(
        version=5,
        tables=(*earlier.TABLES, *node_history.TABLES),
        columns=(),
        indexes=node_history.INDEXES,
        set_version="PRAGMA user_version = 5",
    ),
    MigrationStep(
        version=6, tables=setting_changes.TABLES, columns=(), indexes=(), set_version="PRAGMA user_version = 6"
    ),
    MigrationStep(
        version=7,
        tables=(),
        columns=("ALTER TABLE request_traces ADD COLUMN truncated INTEGER",),
        indexes=(),
        set_version="PRAGMA user_version = 7",
    ),
    MigrationStep(
        version=8,
        tables=(),
        columns=("ALTER TABLE request_traces ADD COLUMN without_effect TEXT",),
        indexes=(),
        set_version="PRAGMA user_version = 8",
    ),
    MigrationStep(
        version=9,
        tables=(),
        columns=("ALTER TABLE request_traces ADD COLUMN repairs TEXT",),
        indexes=(),
        set_version="PRAGMA user_version = 9",
    ),
    MigrationStep(version=10, tables=progress.TABLES, columns=(), indexes=(), set_version="PRAGMA user_version = 10"),
    MigrationStep(
        version=11,
        tables=(),
        columns=(),
        indexes=(
            "CREATE INDEX IF NOT EXISTS idx_latency_values "
            "ON latency_observations(node_id, model_name, id, latency_ms)",
            "CREATE INDEX IF NOT EXISTS idx_traces_last_used ON request_traces(node_id, model, timestamp) "
            "WHERE status = 'completed'",
            "CREATE INDEX IF NOT EXISTS idx_traces_fallbacks ON request_traces(timestamp, original_model, model) "
            "WHERE fallback_used = 1",
        ),
        set_version="PRAGMA user_version = 11",
    ),
    MigrationStep(
        version=12,
        tables=tables.TABLES,
        columns=(),
        indexes=(
            "CREATE INDEX IF NOT EXISTS idx_traces_filters ON request_traces(timestamp, node_id, model, status, tags)",
            "CREATE INDEX IF NOT EXISTS idx_audit_at ON audit(at)",
        ),
        set_version="PRAGMA user_version = 12",
    ),
    MigrationStep(
        version=13,
        tables=tables.TABLES,
        columns=(
            "ALTER TABLE request_traces ADD COLUMN user_id TEXT",
            "ALTER TABLE request_traces ADD COLUMN app_name TEXT",
        ),
        indexes=(
            "CREATE INDEX IF NOT EXISTS idx_traces_users ON request_traces(user_id, timestamp) "
            "WHERE user_id IS NOT NULL",
        ),
        set_version="PRAGMA user_version = 13",
    ),
    MigrationStep(
        version=14, tables=conformance.TABLES, columns=(), indexes=(), set_version="PRAGMA user_version = 14"
    ),
    MigrationStep(version=15, tables=(), columns=backlog.COLUMNS, indexes=(), set_version="PRAGMA user_version = 15"),
)

COLUMN_NAMES = "SELECT name FROM pragma_table_info(?)"
TABLES_COUNT = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'"


def version_of(connection: sqlite3.Connection) -> int:
    """The database's `user_version`: 0 for a new one and for one of ollama-herd."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_new(connection: sqlite3.Connection) -> bool:
    return int(connection.execute(TABLES_COUNT).fetchone()[0]) == 0


def steps_needed(connection: sqlite3.Connection) -> list[MigrationStep]:
    """The steps above the database's version, and steps below it whose columns are missing."""
    version = version_of(connection)
    return [step for step in STEPS if step.version > version or _missing(connection, step)]


def apply(connection: sqlite3.Connection, step: MigrationStep) -> None:
    """Runs one step in one transaction: after a crash the database has the schema of the previous step.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; then nothing has changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in step.tables:
            connection.execute(statement)
        for statement in _missing(connection, step):
            connection.execute(statement)
        for statement in step.indexes:
            connection.execute(statement)
        if version_of(connection) < step.version:
            connection.execute(step.set_version)
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _missing(connection: sqlite3.Connection, step: MigrationStep) -> list[str]:
    return [statement for statement in step.columns if not _has_column(connection, statement)]


def _has_column(connection: sqlite3.Connection, statement: str) -> bool:
    """`statement` is "ALTER TABLE <table> ADD COLUMN <column> <type>"."""
    parts = statement.split()
    table, column = parts[2], parts[5]
    return any(name == column for (name,) in connection.execute(COLUMN_NAMES, (table,)))
