"""Generates days of requests of a small household and writes them into a trace database, for tests and screenshots.

The same `Day` always writes the same rows. There are more requests in the afternoon than at night, nodes are fast and
slow, a few requests fail or are retried, rejected or cancelled, and one node is offline for an hour.
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
OFFLINE = ("old-laptop", 3.0, 4.0)
"""A node, and the hours of the day between which it is offline."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A generated node. `write_rate` (decode) and `read_rate` (prefill) are in tokens per second."""

    node_id: str
    write_rate: float
    read_rate: float
    memory_gb: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A client application: its share of the requests, and the usual length of prompt and answer in tokens."""

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
    App(
        tags=("aider",), client_ip="192.168.1.7", share=0.4, prompt=2600, answer=320, model="qwen3:8b", dialect="openai"
    ),
    App(
        tags=("user:ann", "chat"),
        client_ip="192.168.1.8",
        share=0.25,
        prompt=420,
        answer=210,
        model="llama3.2:3b",
        dialect="ollama",
    ),
    App(tags=(), client_ip="192.168.1.20", share=0.15, prompt=180, answer=60, model="llama3.2:3b", dialect="ollama"),
    App(
        tags=("notes",),
        client_ip="192.168.1.9",
        share=0.12,
        prompt=900,
        answer=0,
        model="nomic-embed-text:latest",
        dialect="ollama",
    ),
    App(
        tags=(),
        client_ip="192.168.1.30",
        share=0.08,
        prompt=5200,
        answer=640,
        model="qwen3:8b",
        dialect="anthropic",
        key_id="k-batch",
    ),
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
    """24 hours from `began_at` (Unix time) with this number of requests; `hours` makes it shorter."""

    began_at: float
    seed: int = 1
    requests: int = 2000
    hours: float = 24.0


def write_day(connection: sqlite3.Connection, day: Day) -> None:
    """Adds the day's traces, latencies, node states and events to a database with the newest schema."""
    connection.execute("BEGIN IMMEDIATE")
    before = connection.execute(NEWEST_TRACE).fetchone()
    connection.executemany(INSERT_TRACE, (astuple(trace_row(record, record.at, 16)) for record in records(day)))
    connection.execute(INSERT_LATENCIES, before)
    connection.execute("COMMIT")
    node_history.insert_history(connection, list(stays(day)), list(events(day)))


def records(day: Day) -> Iterator[Record]:
    """Attempts and final rows, in the order of their time; times are Unix time."""
    rng = Random(f"{day.seed} {day.began_at}")
    made = sorted(
        (record for n in range(day.requests) for record in _request(day, n, rng)), key=lambda record: record.at
    )
    return iter(made)


def stays(day: Day) -> Iterator[StateInterval]:
    """The state of each node in each minute."""
    for minute in range(1, int(day.hours * 60) + 1):
        at = day.began_at + minute * STATE_STEP_S - 1.0
        hour = (minute - 1) / 60.0
        for machine in MACHINES:
            is_offline = machine.node_id == OFFLINE[0] and OFFLINE[1] <= hour < OFFLINE[2]
            yield StateInterval(
                at,
                machine.node_id,
                "gone" if is_offline else "online",
                STATE_STEP_S,
                0 if is_offline else machine.slots,
            )


def events(day: Day) -> Iterator[FleetEvent]:
    name, left, returned = OFFLINE
    for hour, kind, words in ((left, "node_left", "left"), (returned, "node_joined", "joined")):
        if hour < day.hours:
            yield FleetEvent(day.began_at + hour * HOUR_S, kind, f"{name} {words}")


def _request(day: Day, number: int, rng: Random) -> list[Record]:
    app = rng.choices(APPS, [app.share for app in APPS])[0]
    at = day.began_at + _arrival_s(day, rng)
    kind = RequestKind.INFO if rng.random() < INFO else RequestKind.CHAT if app.answer else RequestKind.EMBED
    prompt = max(1, int(app.prompt * rng.lognormvariate(0.0, 0.6)))
    asked = "qwen3:32b" if app.model == "qwen3:8b" and rng.random() < FALLBACK else app.model
    request = Request(
        id=RequestId(f"h{day.seed}-{int(day.began_at)}-{number}"),
        model=ModelName(app.model),
        kind=kind,
        dialect=app.dialect,
        prompt_tokens=prompt,
        size_bytes=prompt * 4,
        client_ip=app.client_ip,
        tags=app.tags,
        requested_name=asked,
        key_id=app.key_id,
    )
    outcome = Outcome.COMPLETED
    for other, likelihood in LIKELIHOODS:
        outcome = other if outcome is Outcome.COMPLETED and rng.random() < likelihood else outcome
    is_retried = kind is not RequestKind.INFO and outcome is Outcome.COMPLETED and rng.random() < RETRIED
    return _attempts(request, app, at, outcome, is_retried, asked != app.model, rng)


def _arrival_s(day: Day, rng: Random) -> float:
    """Seconds into the day; the afternoon is several times as likely as the night."""
    while True:
        hour = rng.uniform(0.0, day.hours)
        if rng.random() < 0.55 - 0.45 * math.cos((hour - 3.0) / 24.0 * 2.0 * math.pi):
            return hour * HOUR_S * 0.999


def _attempts(
    request: Request, app: App, at: float, outcome: Outcome, is_retried: bool, fallback_used: bool, rng: Random
) -> list[Record]:
    held_s = rng.expovariate(1.0 / 0.02) if rng.random() < 0.9 else rng.expovariate(1.0 / 2.5)
    if outcome is Outcome.REJECTED:
        error = "every node that has the model is busy"
        return [
            Record(
                at=at + held_s,
                request=request,
                outcome=outcome,
                arrived_at=at,
                model=request.model,
                decision=_decision(request, None, rng),
                error=error,
                held_s=held_s,
            )
        ]
    order = rng.sample(MACHINES, len(MACHINES))
    found: list[Record] = []
    began_at = at + held_s
    excluded: tuple[NodeId, ...] = ()
    if is_retried:
        failure = Failure(kind=rng.choice((FailureKind.RESET, FailureKind.SERVER_ERROR)), detail="")
        attempt = Attempt(
            number=1,
            node_id=NodeId(order[0].node_id),
            model=request.model,
            started_at=began_at,
            first_byte_at=None,
            failure=failure,
        )
        decision = _decision(request, order[0], rng)
        began_at += rng.uniform(0.05, 1.5)
        found.append(
            Record(
                at=began_at,
                request=request,
                outcome=Outcome.RETRIED,
                arrived_at=at,
                model=request.model,
                decision=decision,
                attempt=attempt,
                error=failure.description,
                held_s=held_s,
            )
        )
        excluded = (NodeId(order[0].node_id),)
    machine = order[1] if is_retried else order[0]
    times = (at, began_at, held_s)
    return [*found, _final_row(request, app, machine, times, (outcome, excluded, fallback_used), rng)]


def _final_row(
    request: Request,
    app: App,
    machine: Machine,
    times: tuple[float, float, float],
    course: tuple[Outcome, tuple[NodeId, ...], bool],
    rng: Random,
) -> Record:
    """`times`: arrival, start of the attempt, seconds waited. `course`: outcome, excluded nodes, fallback used."""
    at, began_at, held_s = times
    outcome, excluded, fallback_used = course
    written = (
        0
        if not app.answer or request.kind is RequestKind.INFO
        else max(1, int(app.answer * rng.lognormvariate(0.0, 0.7)))
    )
    load_s = rng.uniform(1.5, 9.0) if rng.random() < COLD else rng.uniform(0.0, 0.06)
    read_s = request.prompt_tokens / (machine.read_rate * rng.uniform(0.8, 1.2))
    write_s = written / (machine.write_rate * rng.uniform(0.8, 1.1))
    is_complete = outcome is Outcome.COMPLETED
    if not is_complete:
        written, write_s = int(written * 0.4), write_s * 0.4
    first_at = began_at + 0.004 + load_s + read_s
    ended_at = first_at + write_s
    has_begun = outcome is not Outcome.FAILED
    attempt = Attempt(
        number=len(excluded) + 1,
        node_id=NodeId(machine.node_id),
        model=request.model,
        started_at=began_at,
        first_byte_at=first_at if has_begun else None,
        failure=None if is_complete or outcome is Outcome.CLIENT_CANCELLED else Failure(kind=FailureKind.RESET),
    )
    reason = ("length" if rng.random() < TRUNCATED else "stop") if is_complete else None
    counters = (
        Counters(request.prompt_tokens, written, None, load_s, read_s, write_s, reason) if has_begun else Counters()
    )
    return Record(
        at=ended_at,
        request=request,
        outcome=outcome,
        arrived_at=at,
        model=request.model,
        decision=_decision(request, machine, rng),
        attempt=attempt,
        counters=counters,
        retries=len(excluded),
        fallback_used=fallback_used,
        excluded=excluded,
        error="" if is_complete else "the connection was reset",
        first_byte_at=first_at if has_begun else None,
        held_s=held_s,
    )


def _decision(request: Request, chosen: Machine | None, rng: Random) -> Decision:
    """All candidates, with numbers that match the decision."""
    size_bytes = int(dict(SIZES_GB).get(request.model, 1.0) * 1e9)
    if chosen is None:
        out = [Rejected(NodeId(machine.node_id), "memory", "needs 5.2 GB, 1.0 GB free") for machine in MACHINES]
        return Decision(model=request.model, policy="completion_time", chosen=None, scored=[], rejected=out)
    others = [machine for machine in MACHINES if machine is not chosen]
    best = _scored(request, chosen, size_bytes, 0.0, rng)
    late = [
        _scored(request, one, size_bytes, best.expected_s["total"] + rng.uniform(0.05, 3.0), rng) for one in others[:1]
    ]
    out = [
        Rejected(NodeId(one.node_id), "memory", f"needs {size_bytes / 1e9:.1f} GB, 1.0 GB free") for one in others[1:]
    ]
    return Decision(
        model=request.model, policy="completion_time", chosen=NodeId(chosen.node_id), scored=[best, *late], rejected=out
    )


def _scored(request: Request, machine: Machine, size_bytes: int, at_least_s: float, rng: Random) -> Scored:
    terms = {
        "wait": 0.0,
        "load": 0.0,
        "prefill": request.prompt_tokens / machine.read_rate,
        "decode": 200.0 / machine.write_rate,
        "harm": 0.0,
    }
    if (lack := at_least_s - sum(terms.values())) > 0.0:
        terms[rng.choice(("wait", "load"))] = lack
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
        node_id=NodeId(machine.node_id),
        total=sum(points.values()),
        terms=points,
        depth=int(bool(terms["wait"])),
        expected_s={**terms, "total": total},
        candidate=_candidate(request.model, machine, size_bytes, not terms["load"], int(bool(terms["wait"]))),
    )


def _candidate(model: ModelName, machine: Machine, size_bytes: int, is_loaded: bool, in_flight: int) -> Candidate:
    whole = machine.memory_gb * 10**9
    model_info = ModelInfo(
        name=model,
        engine=EngineEndpoint("ollama", "", slots=machine.slots),
        size_bytes=size_bytes,
        loaded=Loaded(size_bytes, 8192) if is_loaded else None,
    )
    report = Report(
        node_id=NodeId(machine.node_id),
        boot_id="",
        memory=Memory(total_bytes=whole, used_bytes=whole // 3, available_bytes=whole - whole // 3),
        models={model: model_info},
    )
    return Candidate(
        node=Node(id=report.node_id, report=report, last_heartbeat_at=0.0, first_heartbeat_at=0.0),
        report=report,
        model_info=model_info,
        model=model,
        at=0.0,
        in_flight=in_flight,
        _free_bytes=whole // 2,
    )
