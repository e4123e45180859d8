"""Stores which conformance steps a model has passed on a node: the newest result of each pair."""

from __future__ import annotations

import sqlite3

import msgspec

ROWS_MAX = 1_000
TABLES = (
    """CREATE TABLE IF NOT EXISTS conformance (
        model TEXT NOT NULL, node_id TEXT NOT NULL, digest TEXT NOT NULL, version TEXT NOT NULL, at REAL NOT NULL,
        steps TEXT NOT NULL, PRIMARY KEY (model, node_id)
    )""",
)
INSERT = "INSERT OR REPLACE INTO conformance (model, node_id, digest, version, at, steps) VALUES (?, ?, ?, ?, ?, ?)"
DELETE_SURPLUS = (
    "DELETE FROM conformance WHERE rowid IN (SELECT rowid FROM conformance ORDER BY at DESC LIMIT -1 OFFSET ?)"
)
SELECT = "SELECT model, node_id, digest, version, at, steps FROM conformance ORDER BY model, node_id"


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `evidence` says what the model did instead, if it did not pass; `badges` are those that need it."""

    name: str
    passed: bool
    evidence: str = ""
    badges: tuple[str, ...] = ()


class ConformanceResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one task. `model` is the canonical name, `version` that of herd, `at` in Unix seconds."""

    model: str
    node_id: str
    digest: str
    version: str
    at: float
    steps: tuple[StepResult, ...]


def insert_result(connection: sqlite3.Connection, result: ConformanceResult) -> None:
    """Replaces the result of this model on this node. Raises `sqlite3.Error`."""
    steps = msgspec.json.encode(result.steps).decode()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(INSERT, (result.model, result.node_id, result.digest, result.version, result.at, steps))
    connection.execute(DELETE_SURPLUS, (ROWS_MAX,))
    connection.execute("COMMIT")


def all_results(connection: sqlite3.Connection) -> list[ConformanceResult]:
    """Every stored result, sorted by model and node."""
    return [_result(row) for row in connection.execute(SELECT)]


def _result(row: tuple[str, str, str, str, float, str]) -> ConformanceResult:
    model, node_id, digest, version, at, steps = row
    try:
        decoded = msgspec.json.decode(steps, type=tuple[StepResult, ...])
    except msgspec.DecodeError:
        decoded = ()
    return ConformanceResult(model=model, node_id=node_id, digest=digest, version=version, at=at, steps=decoded)


def badges(result: ConformanceResult) -> tuple[str, ...]:
    """What the model works with: every badge whose steps it has passed."""
    needed: dict[str, bool] = {}
    for step in result.steps:
        for badge in step.badges:
            needed[badge] = needed.get(badge, True) and step.passed
    return tuple(badge for badge, passed in needed.items() if passed)


def failing_step(result: ConformanceResult) -> StepResult | None:
    """The first step that the model did not pass."""
    return next((step for step in result.steps if not step.passed), None)
