"""How what was learnt, and the rules of choices, are kept in the trace database and found again. Learns and decides nothing.

Whatever another program, a crash or a curious person left in these tables is passed over: it is only where learning starts.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable

import msgspec

from herd.coordinator.storage.retention import DAY_S
from herd.core.planning.replay import DecisionRules
from herd.core.state.learned_values import LearnedValue

FORGOTTEN_DAYS = 90.0
"""What was learnt of a node that nobody has learnt from for so long is dropped."""
ROWS_MAX = 20_000
"""Memories kept at most; the oldest go first."""
NAME_MAX_CHARS = 1_000
RULES_MAX = 1_000
"""Rules read at most, the newest first."""

UPSERT = """INSERT INTO learnt (kind, subject, model, numbers, learnt_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (kind, subject, model) DO UPDATE SET numbers = excluded.numbers, learnt_at = excluded.learnt_at"""
# A pair lives as long as its node: the node's own row is the youngest of all its rows.
FORGET = """DELETE FROM learnt WHERE learnt_at < :oldest AND NOT EXISTS (
    SELECT 1 FROM learnt AS node WHERE node.kind = 'node' AND node.model = '' AND node.subject = learnt.subject
    AND node.subject <> '' AND node.learnt_at >= :oldest)"""
SURPLUS = "DELETE FROM learnt WHERE rowid IN (SELECT rowid FROM learnt ORDER BY learnt_at DESC LIMIT -1 OFFSET ?)"
# Oldest first, so that the newest are the last to be pushed out of the bounded memories of the core.
ALL = """SELECT kind, subject, model, numbers FROM (
        SELECT * FROM learnt WHERE learnt_at >= :oldest OR EXISTS (
            SELECT 1 FROM learnt AS node WHERE node.kind = 'node' AND node.model = '' AND node.subject = learnt.subject
            AND node.subject <> '' AND node.learnt_at >= :oldest)
        ORDER BY learnt_at DESC LIMIT :most
    ) ORDER BY learnt_at"""

KEEP_RULES = "INSERT OR IGNORE INTO decision_rules (fingerprint, policy, weights, first_at) VALUES (?, ?, ?, ?)"
ALL_RULES = "SELECT fingerprint, policy, weights FROM decision_rules ORDER BY first_at DESC LIMIT ?"

log = logging.getLogger("herd.store")


def keep(connection: sqlite3.Connection, memories: Iterable[LearnedValue], now: float) -> None:
    """Writes the newest word of each, and drops what is too old or too much. `now` is unix time.

    Expects a connection in autocommit mode. Raises `sqlite3.Error`; then nothing was changed once it is rolled back.
    """
    rows = [
        (*map(_text, (one.kind, one.subject, one.model)), msgspec.json.encode(one.numbers).decode(), now)
        for one in memories
    ]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(UPSERT, rows)
    connection.execute(FORGET, {"oldest": now - FORGOTTEN_DAYS * DAY_S})
    connection.execute(SURPLUS, (ROWS_MAX,))
    connection.execute("COMMIT")


def recalled(connection: sqlite3.Connection, now: float) -> list[LearnedValue]:
    """What is kept and not too old, oldest first. Rows that make no sense are left out, and counted in one line of the log."""
    found, strange = list[LearnedValue](), 0
    for *names, numbers in connection.execute(ALL, {"oldest": now - FORGOTTEN_DAYS * DAY_S, "most": ROWS_MAX}):
        try:
            kind, subject, model = msgspec.convert(names, tuple[str, str, str])
            found.append(LearnedValue(kind, subject, model, msgspec.json.decode(numbers, type=dict[str, float])))
        except (msgspec.MsgspecError, TypeError, UnicodeEncodeError):
            strange += 1
    if strange:
        _tell_strange(strange)
    return found


def believe(memories: Iterable[LearnedValue], recall: Callable[[LearnedValue], None]) -> int:
    """Has each recalled; how many were. Those that nobody can have learnt are counted in one line of the log."""
    believed = strange = 0
    for memory in memories:
        try:
            recall(memory)
            believed += 1
        except ValueError:
            strange += 1
    if strange:
        _tell_strange(strange)
    return believed


def _tell_strange(count: int) -> None:
    log.warning("some of what was learnt before makes no sense and is passed over", extra={"rows": count})


def _text(name: str) -> str:
    """Cut to its limit, and without lone surrogates, which SQLite refuses."""
    return name[:NAME_MAX_CHARS].encode("utf-8", "replace").decode("utf-8")


def keep_rules(connection: sqlite3.Connection, rules: DecisionRules, now: float) -> None:
    """Once per set of rules, whatever comes of it. Raises `sqlite3.Error`."""
    weights = msgspec.json.encode(rules.values).decode()
    connection.execute(KEEP_RULES, (rules.fingerprint, rules.policy, weights, now))


def known_rules(connection: sqlite3.Connection) -> dict[str, DecisionRules]:
    """By fingerprint. Raises `sqlite3.Error`; rows that make no sense are left out."""
    known: dict[str, DecisionRules] = {}
    for fingerprint, policy, weights in connection.execute(ALL_RULES, (RULES_MAX,)):
        try:
            known[fingerprint] = DecisionRules().changed(policy, msgspec.json.decode(weights, type=dict[str, float]))
        except (msgspec.MsgspecError, TypeError, UnicodeEncodeError):
            continue
    return known
