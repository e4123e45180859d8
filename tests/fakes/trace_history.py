"""A made-up past for a trace database: days of a small household's requests, for the demo, for screenshots and for tests. Asks nobody.

The same `Day` writes the same rows, whatever else is in the database. Afternoons are busy and nights quiet; nodes are fast and slow;
a few requests fail, are retried, rejected or left; one node is away for an hour.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from msgspec.structs import astuple

from herd.coordinator.storage import node_history
from herd.coordinator.storage.node_history import FleetEvent, StateInterval
from herd.coordinator.storage.trace_rows import INSERT_LATENCIES, INSERT_TRACE, NEWEST_TRACE, trace_row
from herd.core.state.commands import Record
from herd.core.state.decision import Candidate, Decision, Rejected, Scored
from herd.core.state.fleet import EngineEndpoint, Loaded, Memory, ModelInfo, ModelName, Node, NodeId, Report
from herd.core.state.request import Attempt, Counters, Failure, FailureKind, Outcome, Request, RequestId, RequestKind

HOUR_S, DAY_S = 3600.0, 86_400.0
STATE_STEP_S = 60.0
AWAY = ("old-laptop", 3.0, 4.0)
"""This node is gone from one hour of the day to another."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node of the made-up household: how fast it writes and reads, in tokens a second, and how much it holds."""

    node_id: str
    write_rate: float
    read_rate: float
    memory_gb: int
    slots: int


@dataclass(frozen=True, slots=True)
class App:
    """Who asks: tags, share of the requests, usual prompt and answer in tokens, and for which model."""

    tags: tuple[str, ...]
    client_ip: str
    share: float
    prompt: int
    answer: int
    model: str
    dialect: str
    key_id: str = ""


MACHINES = (
    Machine("studio", 62.0, 900.0, 64, 4),
    Machine("gaming-pc", 88.0, 2400.0, 24, 2),
    Machine("old-laptop", 11.0, 120.0, 16, 1),
)
APPS = (
    App(("aider",), "192.168.1.7", 0.40, 2600, 320, "qwen3:8b", "openai"),
    App(("user:ann", "chat"), "192.168.1.8", 0.25, 420, 210, "llama3.2:3b", "ollama"),
    App((), "192.168.1.20", 0.15, 180, 60, "llama3.2:3b", "ollama"),
    App(("notes",), "192.168.1.9", 0.12, 900, 0, "nomic-embed-text:latest", "ollama"),
    App((), "192.168.1.30", 0.08, 5200, 640, "qwen3:8b", "anthropic", "k-batch"),
)
SIZES_GB = (("qwen3:8b", 5.2), ("llama3.2:3b", 2.0), ("nomic-embed-text:latest", 0.3))
LIKELIHOODS = (
    (Outcome.FAILED, 0.010),
    (Outcome.FAILED_MIDSTREAM, 0.004),
    (Outcome.REJECTED, 0.006),
    (Outcome.CLIENT_CANCELLED, 0.02),
)
RETRIED, INFO, COLD, TRUNCATED, FALLBACK = 0.02, 0.03, 0.03, 0.04, 0.01


@dataclass(frozen=True, slots=True)
class Day:
    """24 hours from `began_at` (unix time) with so many requests. `hours` cuts it short."""

    began_at: float
    seed: int = 1
    requests: int = 2000
    hours: float = 24.0


def write_day(connection: sqlite3.Connection, day: Day) -> None:
    """Adds the day's traces, latencies, states of nodes and events. Expects our newest schema. Raises `sqlite3.Error`."""
    connection.execute("BEGIN IMMEDIATE")
    before = connection.execute(NEWEST_TRACE).fetchone()
    connection.executemany(INSERT_TRACE, (astuple(trace_row(record, record.at, 16)) for record in records(day)))
    connection.execute(INSERT_LATENCIES, before)
    connection.execute("COMMIT")
    node_history.insert_history(connection, list(stays(day)), list(events(day)))


def records(day: Day) -> Iterator[Record]:
    """Attempts and ends, in the order in which they were written down. Their clock is unix time."""
    dice = Random(f"{day.seed} {day.began_at}")
    made = sorted(
        (record for n in range(day.requests) for record in _request(day, n, dice)), key=lambda record: record.at
    )
    return iter(made)


def stays(day: Day) -> Iterator[StateInterval]:
    """Each minute's state of each node."""
    for minute in range(1, int(day.hours * 60) + 1):
        at = day.began_at + minute * STATE_STEP_S - 1.0
        hour = (minute - 1) / 60.0
        for machine in MACHINES:
            is_away = machine.node_id == AWAY[0] and AWAY[1] <= hour < AWAY[2]
            yield StateInterval(
                at, machine.node_id, "gone" if is_away else "online", STATE_STEP_S, 0 if is_away else machine.slots
            )


def events(day: Day) -> Iterator[FleetEvent]:
    name, left, returned = AWAY
    for hour, kind, words in ((left, "node_left", "left"), (returned, "node_joined", "joined")):
        if hour < day.hours:
            yield FleetEvent(day.began_at + hour * HOUR_S, kind, f"{name} {words}")


def _request(day: Day, number: int, dice: Random) -> list[Record]:
    app = dice.choices(APPS, [app.share for app in APPS])[0]
    at = day.began_at + _moment(day, dice)
    kind = RequestKind.INFO if dice.random() < INFO else RequestKind.CHAT if app.answer else RequestKind.EMBED
    prompt = max(1, int(app.prompt * dice.lognormvariate(0.0, 0.6)))
    asked = "qwen3:32b" if app.model == "qwen3:8b" and dice.random() < FALLBACK else app.model
    request = Request(
        RequestId(f"h{day.seed}-{int(day.began_at)}-{number}"),
        ModelName(app.model),
        kind,
        app.dialect,
        prompt_tokens=prompt,
        size_bytes=prompt * 4,
        client_ip=app.client_ip,
        tags=app.tags,
        requested_name=asked,
        key_id=app.key_id,
    )
    outcome = Outcome.COMPLETED
    for other, likelihood in LIKELIHOODS:
        outcome = other if outcome is Outcome.COMPLETED and dice.random() < likelihood else outcome
    is_retried = kind is not RequestKind.INFO and outcome is Outcome.COMPLETED and dice.random() < RETRIED
    return _attempts(request, app, at, outcome, is_retried, asked != app.model, dice)


def _moment(day: Day, dice: Random) -> float:
    """Seconds into the day: three times as likely in the afternoon as at night."""
    while True:
        hour = dice.uniform(0.0, day.hours)
        if dice.random() < 0.55 - 0.45 * math.cos((hour - 3.0) / 24.0 * 2.0 * math.pi):
            return hour * HOUR_S * 0.999


def _attempts(
    request: Request, app: App, at: float, outcome: Outcome, is_retried: bool, fallback_used: bool, dice: Random
) -> list[Record]:
    held_s = dice.expovariate(1.0 / 0.02) if dice.random() < 0.9 else dice.expovariate(1.0 / 2.5)
    if outcome is Outcome.REJECTED:
        error = "every node that has the model is busy"
        return [
            Record(
                at + held_s,
                request,
                outcome,
                at,
                request.model,
                _decision(request, None, dice),
                error=error,
                held_s=held_s,
            )
        ]
    order = dice.sample(MACHINES, len(MACHINES))
    found: list[Record] = []
    began_at = at + held_s
    excluded: tuple[NodeId, ...] = ()
    if is_retried:
        failure = Failure(dice.choice((FailureKind.RESET, FailureKind.SERVER_ERROR)), detail="")
        attempt = Attempt(1, NodeId(order[0].node_id), request.model, began_at, None, failure)
        decision = _decision(request, order[0], dice)
        began_at += dice.uniform(0.05, 1.5)
        found.append(
            Record(
                began_at,
                request,
                Outcome.RETRIED,
                at,
                request.model,
                decision,
                attempt,
                error=failure.description,
                held_s=held_s,
            )
        )
        excluded = (NodeId(order[0].node_id),)
    machine = order[1] if is_retried else order[0]
    return [*found, _end(request, app, machine, (at, began_at, held_s), outcome, excluded, fallback_used, dice)]


def _end(
    request: Request,
    app: App,
    machine: Machine,
    times: tuple[float, float, float],
    outcome: Outcome,
    excluded: tuple[NodeId, ...],
    fallback_used: bool,
    dice: Random,
) -> Record:
    at, began_at, held_s = times
    written = (
        0
        if not app.answer or request.kind is RequestKind.INFO
        else max(1, int(app.answer * dice.lognormvariate(0.0, 0.7)))
    )
    load_s = dice.uniform(1.5, 9.0) if dice.random() < COLD else dice.uniform(0.0, 0.06)
    read_s = request.prompt_tokens / (machine.read_rate * dice.uniform(0.8, 1.2))
    write_s = written / (machine.write_rate * dice.uniform(0.8, 1.1))
    is_whole = outcome is Outcome.COMPLETED
    if not is_whole:
        written, write_s = int(written * 0.4), write_s * 0.4
    first_at = began_at + 0.004 + load_s + read_s
    ended_at = first_at + write_s
    has_begun = outcome is not Outcome.FAILED
    attempt = Attempt(
        len(excluded) + 1,
        NodeId(machine.node_id),
        request.model,
        began_at,
        first_at if has_begun else None,
        None if is_whole or outcome is Outcome.CLIENT_CANCELLED else Failure(FailureKind.RESET),
    )
    reason = ("length" if dice.random() < TRUNCATED else "stop") if is_whole else None
    counters = (
        Counters(request.prompt_tokens, written, None, load_s, read_s, write_s, reason) if has_begun else Counters()
    )
    return Record(
        ended_at,
        request,
        outcome,
        at,
        request.model,
        _decision(request, machine, dice),
        attempt,
        counters,
        len(excluded),
        fallback_used,
        excluded,
        "" if is_whole else "the connection was reset",
        first_at if has_begun else None,
        held_s,
    )


def _decision(request: Request, chosen: Machine | None, dice: Random) -> Decision:
    """Everybody who was considered, with numbers that fit to the choice."""
    size_bytes = int(dict(SIZES_GB).get(request.model, 1.0) * 1e9)
    if chosen is None:
        out = [Rejected(NodeId(machine.node_id), "memory", "needs 5.2 GB, 1.0 GB free") for machine in MACHINES]
        return Decision(request.model, "completion_time", None, [], out)
    others = [machine for machine in MACHINES if machine is not chosen]
    best = _scored(request, chosen, size_bytes, 0.0, dice)
    late = [
        _scored(request, one, size_bytes, best.expected_s["total"] + dice.uniform(0.05, 3.0), dice)
        for one in others[:1]
    ]
    out = [
        Rejected(NodeId(one.node_id), "memory", f"needs {size_bytes / 1e9:.1f} GB, 1.0 GB free") for one in others[1:]
    ]
    return Decision(request.model, "completion_time", NodeId(chosen.node_id), [best, *late], out)


def _scored(request: Request, machine: Machine, size_bytes: int, at_least_s: float, dice: Random) -> Scored:
    terms = {
        "wait": 0.0,
        "load": 0.0,
        "prefill": request.prompt_tokens / machine.read_rate,
        "decode": 200.0 / machine.write_rate,
        "harm": 0.0,
    }
    if (lack := at_least_s - sum(terms.values())) > 0.0:
        terms[dice.choice(("wait", "load"))] = lack
    points = {
        "thermal": 50.0 if not terms["load"] else 10.0,
        "memory_fit": 20.0,
        "queue_depth": -6.0 if terms["wait"] else 0.0,
        "wait_time": 0.0,
        "role_affinity": 3.0,
        "availability_trend": 0.0,
        "context_fit": 7.0,
    }
    total = terms["wait"] + terms["load"] + terms["prefill"] + terms["decode"] + terms["harm"]
    return Scored(
        NodeId(machine.node_id),
        sum(points.values()),
        points,
        int(bool(terms["wait"])),
        {**terms, "total": total},
        candidate=_candidate(request.model, machine, size_bytes, not terms["load"], int(bool(terms["wait"]))),
    )


def _candidate(model: ModelName, machine: Machine, size_bytes: int, is_loaded: bool, in_flight: int) -> Candidate:
    whole = machine.memory_gb * 10**9
    card = ModelInfo(
        model,
        EngineEndpoint("ollama", "", slots=machine.slots),
        size_bytes,
        loaded=Loaded(size_bytes, 8192) if is_loaded else None,
    )
    report = Report(NodeId(machine.node_id), "", Memory(whole, whole // 3, whole - whole // 3), {model: card})
    return Candidate(
        node=Node(report.node_id, report, 0.0, 0.0),
        report=report,
        card=card,
        model=model,
        at=0.0,
        in_flight=in_flight,
        _free_bytes=whole // 2,
    )
