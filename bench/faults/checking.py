"""Compares three accounts of one run: what clients saw, what the store says, and what engines did."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from bench.faults import answers
from bench.faults.answers import CALL_TEXT_WORDS
from bench.faults.apis import is_embedding
from bench.faults.clients import History
from bench.faults.fleet import NodePlan
from bench.faults.injecting import Fault, Kind

KILL_BEFORE_S, KILL_AFTER_S = 0.2, 2.5
"""A request that ended in this time around the end of the killed coordinator was ended by it."""
READ_MAX_S = 1.0
"""The coordinator has read a request after this time at the latest, so that it needs a row."""
ENDED = {
    "complete": ("completed",),
    "refused": ("failed", "rejected"),
    "broken": ("failed_midstream", "failed"),
    "lost": ("failed", "failed_midstream"),
    "left": ("client_cancelled", "completed", "failed", "failed_midstream"),
}
LOST = "coordinator_lost"
REPEATED = "\n\n"
"""Separates thinking that was cut from the thinking of the next node."""
DETECTION_MAX_S = 10.0
DETECTIONS_MIN = 10
"""A 99th percentile of fewer detections says little, on a machine that other programs use too."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `request_traces`."""

    tag: str
    status: str
    node: str
    failure: str
    error: str
    retries: int


@dataclass(slots=True)
class Attempt:
    """A request on an engine. `how` is "end", "cut" (the coordinator closed it), a failure, or empty (killed)."""

    node: str
    seed: int
    started_at: float
    ended_at: float = float("inf")
    how: str = ""


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that is known about one run. Times are on the monotonic clock."""

    histories: list[History]
    rows: list[Row]
    attempts: list[Attempt]
    faults: list[Fault]
    plans: Sequence[NodePlan]
    known_silent: list[tuple[float, str]] = field(default_factory=list)
    """When the coordinator began to report that the engine of a node answers nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken promise."""

    promise: str
    history: History | None
    detail: str


def read_rows(database: Path) -> list[Row]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT tags, status, node_id, failure, error_message, retry_count FROM request_traces"
            " WHERE tags IS NOT NULL ORDER BY id"
        ).fetchall()
    return [
        Row(json.loads(tags)[0], status, node, failure or "", error or "", retries)
        for tags, status, node, failure, error, retries in found
    ]


def read_attempts(logs: Mapping[str, Path]) -> list[Attempt]:
    """From the engines' logs, by name of their node."""
    attempts: list[Attempt] = []
    for node, log in logs.items():
        running: dict[int, list[Attempt]] = defaultdict(list)
        for line in log.read_text("utf-8").splitlines() if log.exists() else ():
            at, what, seed, _ = json.loads(line)
            if what == "start":
                running[seed].append(Attempt(node, seed, at))
                attempts.append(running[seed][-1])
            elif running[seed]:
                ended = running[seed].pop(0)
                ended.ended_at, ended.how = at, what
    return attempts


# --- promises ---


def problems(run: Run) -> list[Problem]:
    found: list[Problem] = []
    rows = defaultdict(list)
    for row in run.rows:
        rows[row.tag].append(row)
    for history in run.histories:
        found += _of_answer(run, history)
        found += _of_rows(run, history, rows[history.tag])
    tags = {history.tag for history in run.histories}
    found += [Problem("every row has a request", None, str(row)) for row in run.rows if row.tag not in tags]
    found += false_alarms(run)
    noticed = sorted(time for times in detections(run).values() for time in times if time is not None)
    if len(noticed) >= DETECTIONS_MIN and quantile(noticed, 0.99) > DETECTION_MAX_S:
        found.append(Problem("a silent fault is noticed in 10 s", None, f"p99 {quantile(noticed, 0.99):.1f} s"))
    return found


def _of_answer(run: Run, history: History) -> Iterable[Problem]:
    if history.end == "complete":
        if wrong := wrong_answer(history):
            yield Problem("the right text", history, wrong)
        return
    if not _expected(history).startswith(history.read.text):
        yield Problem("the right text", history, "the part before the end is wrong")
    if history.end == "left" or by_coordinator(run, history):
        return
    if is_thought_cut_later(history):
        return
    if not history.end:
        yield Problem("no client waits for ever", history, history.error)
    elif history.end == "refused":
        promise = "no refusal with a free slot" if free_slots(run, history.ended_at) else "every request is answered"
        yield Problem(promise, history, history.error)
    else:
        yield Problem("every begun answer is completed", history, history.error)


def is_thought_cut_later(history: History) -> bool:
    """Whether a stream was cut in the text after the thinking, which no template lets a node continue exactly."""
    return history.end == "broken" and bool(history.read.thinking and history.read.text)


def _expected(history: History) -> str:
    words = history.answer.words[history.answer.thinking_words :]
    if history.answer.kind is answers.Kind.CALL:
        words = words[:CALL_TEXT_WORDS]
    return "".join(words if history.limit is None else words[: history.limit])


def wrong_answer(history: History) -> str:
    """What is wrong with a complete answer; empty if nothing is."""
    answer, seen = history.answer, history.read
    if is_embedding(history.api):
        return "" if seen.vector == answer.embedding else "another vector"
    if seen.text != _expected(history):
        return f"another text: {_difference(_expected(history), seen.text)}"
    if not is_right_thinking("".join(answer.words[: answer.thinking_words]), seen.thinking):
        return "other thinking"
    is_short = history.limit is not None and history.limit < answer.words_count
    wanted = "length" if is_short else "call" if answer.kind is answers.Kind.CALL else "stop"
    if seen.end != wanted:
        return f"the end {seen.end}, not {wanted}"
    if wanted == "call" and (seen.call is None or json.loads(seen.call["arguments"]) != answer.arguments):
        return f"another call: {seen.call}"
    tokens = min(answer.words_count, history.limit or answer.words_count)
    if answer.kind is answers.Kind.TEXT and seen.completion_tokens not in (None, tokens):
        return f"{seen.completion_tokens} tokens counted, not {tokens}"
    return ""


def is_right_thinking(whole: str, seen: str) -> bool:
    """Whether it is the thinking, perhaps after parts of it that other nodes had begun, each before an empty line."""
    if seen == whole:
        return True
    ends = (match.start() for match in re.finditer(f"(?={REPEATED})", seen))
    return any(whole.startswith(seen[:at]) and is_right_thinking(whole, seen[at + len(REPEATED) :]) for at in ends)


def _difference(wanted: str, seen: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(wanted, seen, strict=False)) if a != b), min(len(wanted), len(seen)))
    return f"after {same} of {len(wanted)} characters {seen[same : same + 40]!r}, not {wanted[same : same + 40]!r}"


def by_coordinator(run: Run, history: History) -> bool:
    """Whether a kill of the coordinator ended this request."""
    return any(
        history.sent_at <= fault.dead_at + KILL_BEFORE_S
        and fault.began_at - KILL_BEFORE_S <= history.ended_at <= fault.dead_at + KILL_AFTER_S
        for fault in run.faults
        if fault.kind is Kind.COORDINATOR_KILLED
    )


def _of_rows(run: Run, history: History, rows: list[Row]) -> Iterable[Problem]:
    final = [row.status for row in rows if row.status != "retried"]
    was_killed = by_coordinator(run, history)
    if not final:
        may_lack = was_killed and not history.status and history.ended_at - history.sent_at < READ_MAX_S + KILL_AFTER_S
        if not may_lack:
            yield Problem("every request has a row", history, f"no final row; attempts: {len(rows)}")
    elif len(final) > 1:
        yield Problem("no request has two rows", history, ", ".join(final))
    elif final[0] not in ENDED.get(history.end, ()) and not (was_killed and final[0] == LOST):
        yield Problem("the row says what happened", history, f"the row says {final[0]}, the client {history.end}")


# --- slots and alarms ---


def _disturbed(run: Run, node: str, at: float, before_s: float, after_s: float) -> bool:
    return any(
        fault.node == node and not fault.kind.is_harmless and fault.disturbs(at, before_s, after_s)
        for fault in run.faults
    )


def free_slots(run: Run, at: float) -> int:
    """Slots of undisturbed nodes on which no request ran at this time."""
    free = 0
    for plan in run.plans:
        if _disturbed(run, plan.name, at, 0.0, 15.0):
            continue
        running = sum(one.node == plan.name and one.started_at <= at <= one.ended_at for one in run.attempts)
        free += max(0, plan.slots - running)
    return free


def false_alarms(run: Run) -> list[Problem]:
    """Attempts that the coordinator ended although nothing was wrong with their node and their client waited."""
    by_seed = {history.answer.seed: history for history in run.histories}
    found = []
    for attempt in run.attempts:
        history = by_seed.get(attempt.seed)
        if attempt.how != "cut" or history is None:
            continue
        is_over = history.end == "left" or attempt.ended_at > history.ended_at - 0.5 or by_coordinator(run, history)
        is_killed = any(
            fault.kind is Kind.COORDINATOR_KILLED
            and fault.began_at - KILL_BEFORE_S <= attempt.ended_at <= fault.dead_at + KILL_AFTER_S
            for fault in run.faults
        )
        if not is_over and not is_killed and not _disturbed(run, attempt.node, attempt.ended_at, 0.5, 15.0):
            lasted_s = attempt.ended_at - attempt.started_at
            found.append(Problem("no false alarm", history, f"left {attempt.node} after {lasted_s:.1f} s"))
    return found


# --- detection ---


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def detections(run: Run) -> dict[Kind, list[float | None]]:
    """For each freeze that hit running requests: seconds until the first of them left its node or began on another one,
    or until the coordinator reported that the engine is silent. None if nothing of this happened before the repair."""
    found: dict[Kind, list[float | None]] = defaultdict(list)
    by_seed = {history.answer.seed: history for history in run.histories}
    for fault in run.faults:
        if not fault.kind.is_freeze:
            continue
        hit = [one.seed for one in run.attempts if one.seed in by_seed and is_hit(fault, one, by_seed[one.seed])]
        if hit:
            found[fault.kind].append(_detected_s(run, fault, hit))
    return found


def is_hit(fault: Fault, attempt: Attempt, history: History) -> bool:
    """Whether the freeze stopped this attempt, and its client waited for at least a second of it."""
    is_there = attempt.node == fault.node and attempt.started_at < fault.began_at < attempt.ended_at - 1.0
    return is_there and history.ended_at > fault.began_at + 1.0


def _detected_s(run: Run, fault: Fault, hit: list[int]) -> float | None:
    moved = [
        one.started_at
        for one in run.attempts
        if one.seed in hit and one.node != fault.node and fault.began_at < one.started_at < fault.ended_at + 1.0
    ]
    reported = [at for at, node in run.known_silent if node == fault.node and fault.began_at < at < fault.ended_at]
    left = [
        one.ended_at
        for one in run.attempts
        if one.node == fault.node
        and one.seed in hit
        and one.how == "cut"
        and fault.began_at < one.ended_at < fault.ended_at
    ]
    times = [*moved, *reported, *left]
    return min(times) - fault.began_at if times else None


def moves(run: Run) -> dict[bool, list[float]]:
    """Seconds from each freeze until each request that it hit continues, on any node; True: streamed requests."""
    found: dict[bool, list[float]] = {True: [], False: []}
    by_seed = {history.answer.seed: history for history in run.histories}
    for fault in run.faults:
        if not fault.kind.is_freeze:
            continue
        for one in run.attempts:
            history = by_seed.get(one.seed)
            if history is None or not is_hit(fault, one, history) or by_coordinator(run, history):
                continue
            starts = [a.started_at for a in run.attempts if a.seed == one.seed and a.started_at > fault.began_at]
            found[history.api.is_stream].append(min([fault.ended_at, history.ended_at, *starts]) - fault.began_at)
    return found
