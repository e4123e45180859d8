"""Stores learned estimates and decision rules in the trace database, and loads them after a restart.

Invalid rows are skipped: learning then starts without them.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable

import msgspec

from herd.coordinator.storage.retention import DAY_S
from herd.core.planning.replay import DecisionRules
from herd.core.state.learned_values import LearnedValue

EXPIRES_DAYS = 90.0
"""Estimates of a node are deleted when none of them was updated for this long."""
ROWS_MAX = 20_000
"""Maximum number of learned estimates; the oldest are deleted first."""
NAME_MAX_CHARS = 1_000
RULES_MAX = 1_000
"""Maximum number of decision rules to load, newest first."""

UPSERT = """INSERT INTO learnt (kind, subject, model, numbers, learnt_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (kind, subject, model) DO UPDATE SET numbers = excluded.numbers, learnt_at = excluded.learnt_at"""
# A row of a pair is deleted with the row of its node, which is the newest row of that node.
DELETE_EXPIRED = """DELETE FROM learnt WHERE learnt_at < :oldest AND NOT EXISTS (
    SELECT 1 FROM learnt AS node WHERE node.kind = 'node' AND node.model = '' AND node.subject = learnt.subject
    AND node.subject <> '' AND node.learnt_at >= :oldest)"""
DELETE_SURPLUS = (
    "DELETE FROM learnt WHERE rowid IN (SELECT rowid FROM learnt ORDER BY learnt_at DESC LIMIT -1 OFFSET ?)"
)
# Oldest first, so that the bounded maps of the core evict the oldest estimates.
SELECT_ALL = """SELECT kind, subject, model, numbers FROM (
        SELECT * FROM learnt WHERE learnt_at >= :oldest OR EXISTS (
            SELECT 1 FROM learnt AS node WHERE node.kind = 'node' AND node.model = '' AND node.subject = learnt.subject
            AND node.subject <> '' AND node.learnt_at >= :oldest)
        ORDER BY learnt_at DESC LIMIT :most
    ) ORDER BY learnt_at"""

INSERT_RULES = "INSERT OR IGNORE INTO decision_rules (fingerprint, policy, weights, first_at) VALUES (?, ?, ?, ?)"
SELECT_RULES = "SELECT fingerprint, policy, weights FROM decision_rules ORDER BY first_at DESC LIMIT ?"

log = logging.getLogger("herd.store")


def upsert(connection: sqlite3.Connection, values: Iterable[LearnedValue], now: float) -> None:
    """Writes the newest value of each estimate, and deletes expired and surplus rows. `now` is unix time.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; after a rollback nothing has changed.
    """
    rows = [
        (*map(_text, (one.kind, one.subject, one.model)), msgspec.json.encode(one.numbers).decode(), now)
        for one in values
    ]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(UPSERT, rows)
    connection.execute(DELETE_EXPIRED, {"oldest": now - EXPIRES_DAYS * DAY_S})
    connection.execute(DELETE_SURPLUS, (ROWS_MAX,))
    connection.execute("COMMIT")


def load_learned(connection: sqlite3.Connection, now: float) -> list[LearnedValue]:
    """The learned estimates that have not expired, oldest first. Invalid rows are skipped and counted in one log
    line."""
    values, invalid = list[LearnedValue](), 0
    for *names, numbers in connection.execute(SELECT_ALL, {"oldest": now - EXPIRES_DAYS * DAY_S, "most": ROWS_MAX}):
        try:
            kind, subject, model = msgspec.convert(names, tuple[str, str, str])
            values.append(LearnedValue(kind, subject, model, msgspec.json.decode(numbers, type=dict[str, float])))
        except (msgspec.MsgspecError, TypeError, UnicodeEncodeError):
            invalid += 1
    if invalid:
        _log_invalid(invalid)
    return values


def restore(values: Iterable[LearnedValue], restore_one: Callable[[LearnedValue], None]) -> int:
    """Restores each estimate and returns how many were valid. The invalid ones are counted in one log line."""
    restored = invalid = 0
    for value in values:
        try:
            restore_one(value)
            restored += 1
        except ValueError:
            invalid += 1
    if invalid:
        _log_invalid(invalid)
    return restored


def _log_invalid(count: int) -> None:
    log.warning("invalid learned state ignored", extra={"rows": count})


def _text(name: str) -> str:
    """Truncated to its limit, and without lone surrogates, which SQLite rejects."""
    return name[:NAME_MAX_CHARS].encode("utf-8", "replace").decode("utf-8")


def insert_rules(connection: sqlite3.Connection, rules: DecisionRules, now: float) -> None:
    """Inserts the rules if their fingerprint is new. Raises `sqlite3.Error`."""
    weights = msgspec.json.encode(rules.values).decode()
    connection.execute(INSERT_RULES, (rules.fingerprint, rules.policy, weights, now))


def load_rules(connection: sqlite3.Connection) -> dict[str, DecisionRules]:
    """The decision rules by their fingerprint. Invalid rows are skipped. Raises `sqlite3.Error`."""
    rules: dict[str, DecisionRules] = {}
    for fingerprint, policy, weights in connection.execute(SELECT_RULES, (RULES_MAX,)):
        try:
            rules[fingerprint] = DecisionRules().changed(policy, msgspec.json.decode(weights, type=dict[str, float]))
        except (msgspec.MsgspecError, TypeError, UnicodeEncodeError):
            continue
    return rules
