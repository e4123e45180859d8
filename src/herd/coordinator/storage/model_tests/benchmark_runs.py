"""Stores benchmark runs in the trace database, and converts them to the dashboard's records.

The columns are those of ollama-herd. The measurements are JSON in `per_node_results`, the hardware and versions of the
fleet in `fleet_snapshot`. Rows that ollama-herd wrote are listed without measurements.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from herd.coordinator.models.benchmark_runner import BenchmarkRun
from herd.core.planning.benchmark_stats import BenchmarkCell, ProbeKind, ProbeResult, Spread, cells
from herd.core.state.fleet import Fleet, ModelName, NodeId
from herd.dashboard.live import Job
from herd.dashboard.pages.benchmarks import (
    BenchmarkDetails,
    BenchmarkResult,
    BenchmarkRunLine,
    MeasuredSpread,
    ScalePoint,
    SkippedMeasurement,
)

Decoded = TypeVar("Decoded")

RUNS_MAX = 500
LISTED_MAX = 100
METHOD = (
    "idle nodes only, requests sent directly to the engine, each measurement repeated 3 times with a new prompt; "
    "a measurement is cancelled when a client's request arrives, and repeated later"
)
TEXT_MAX_CHARS = 300

INSERT = """INSERT OR REPLACE INTO benchmark_runs (
    run_id, timestamp, duration_s, total_requests, total_failures, total_prompt_tokens, total_completion_tokens,
    requests_per_sec, tokens_per_sec, latency_p50_ms, latency_p95_ms, latency_p99_ms,
    ttft_p50_ms, ttft_p95_ms, ttft_p99_ms, fleet_snapshot, per_model_results, per_node_results, peak_utilization
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
NUMBER_COLUMNS = (
    *("duration_s", "total_requests", "total_failures", "total_prompt_tokens", "total_completion_tokens"),
    *("requests_per_sec", "tokens_per_sec", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
    *("ttft_p50_ms", "ttft_p95_ms", "ttft_p99_ms"),
)
JSON_COLUMNS = ("fleet_snapshot", "per_model_results", "per_node_results", "peak_utilization")
DELETE_SURPLUS = (
    "DELETE FROM benchmark_runs WHERE id IN (SELECT id FROM benchmark_runs ORDER BY id DESC LIMIT -1 OFFSET ?)"
)
SELECT_NEWEST = "SELECT * FROM benchmark_runs ORDER BY timestamp DESC, id DESC LIMIT ?"
SELECT_ONE = "SELECT * FROM benchmark_runs WHERE run_id = ?"


class StoredRun(msgspec.Struct, frozen=True):
    """The JSON in `per_node_results`. Every field has a default, so that a newer version can read what an older one
    wrote."""

    state: str = "done"
    yields: int = 0
    method: str = ""
    cells: tuple[BenchmarkResult, ...] = ()
    left_out: tuple[SkippedMeasurement, ...] = ()


def _no_json() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class SentBenchmark(msgspec.Struct, frozen=True, kw_only=True):
    """A run that another program has measured, with the fields of ollama-herd. Times are in milliseconds."""

    run_id: str
    duration_s: float
    total_requests: int
    total_failures: int
    total_prompt_tokens: int
    total_completion_tokens: int
    timestamp: float | None = None
    requests_per_sec: float | None = None
    tokens_per_sec: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    ttft_p99_ms: float | None = None
    fleet_snapshot: msgspec.Raw = msgspec.field(default_factory=_no_json)
    per_model_results: msgspec.Raw = msgspec.field(default_factory=_no_json)
    per_node_results: msgspec.Raw = msgspec.field(default_factory=_no_json)
    peak_utilization: msgspec.Raw = msgspec.field(default_factory=_no_json)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that has ended, with the hardware and versions of each node at that time."""

    run: BenchmarkRun
    fleet: Mapping[str, Mapping[str, str]]


def describe_fleet(fleet: Fleet) -> dict[str, dict[str, str]]:
    """Hardware and versions per node, so that a comparison of two runs can say what changed."""
    found: dict[str, dict[str, str]] = {}
    for node in sorted(fleet, key=lambda one: one.id):
        report = node.report
        facts = {
            "chip": report.chip,
            "os": report.os,
            "cards": ", ".join(gpu.name for gpu in report.gpus),
            "agent": report.agent_version,
        }
        facts |= {endpoint.kind: endpoint.version for endpoint in report.engines}
        found[node.id] = {name: text[:TEXT_MAX_CHARS] for name, text in facts.items() if text}
    return found


def insert_run(connection: sqlite3.Connection, finished: FinishedRun) -> None:
    """Inserts the run in one transaction. Expects a connection in autocommit mode. Raises `sqlite3.Error`."""
    _insert(connection, _row(finished))


def insert_sent(connection: sqlite3.Connection, sent: SentBenchmark, now: float) -> None:
    """Inserts the run of another program, or replaces it. `now` is its time, in Unix seconds, if it has none.

    Raises `sqlite3.Error`.
    """
    values = msgspec.structs.astuple(sent)
    numbers = dict(zip(sent.__struct_fields__, values, strict=True))
    row = (
        sent.run_id,
        now if sent.timestamp is None else sent.timestamp,
        *(numbers[name] for name in NUMBER_COLUMNS),
        *(_raw_text(numbers[name]) for name in JSON_COLUMNS),
    )
    _insert(connection, row)


def _raw_text(value: object) -> str | None:
    text = bytes(value).decode() if isinstance(value, msgspec.Raw) else "null"
    return None if text == "null" else text


def _insert(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(INSERT, row)
    connection.execute(DELETE_SURPLUS, (RUNS_MAX,))
    connection.execute("COMMIT")


def recent_runs(connection: sqlite3.Connection, limit: int = LISTED_MAX) -> list[BenchmarkRunLine]:
    """The newest runs first. Raises `sqlite3.Error`."""
    return [
        _line(run)
        for run in (_run(row) for row in _rows(connection.execute(SELECT_NEWEST, (max(1, min(limit, LISTED_MAX)),))))
    ]


def find_run(connection: sqlite3.Connection, run_id: str) -> BenchmarkDetails | None:
    """The run with this id, or None. Raises `sqlite3.Error`."""
    return next((_run(row) for row in _rows(connection.execute(SELECT_ONE, (run_id,)))), None)


def to_details(finished: FinishedRun) -> BenchmarkDetails:
    """The dashboard's record of the run."""
    run = finished.run
    results = tuple(to_result(cell) for cell in cells(run.results))
    left_out = tuple(
        SkippedMeasurement(node_id, model, reason[:TEXT_MAX_CHARS])
        for (node_id, model), reason in run.plan.left_out.items()
    )
    fleet = {node_id: dict(facts) for node_id, facts in finished.fleet.items()}
    requests = sum(result.probe.requests for result in run.results)
    return BenchmarkDetails(
        run_id=run.run_id,
        timestamp=run.started_at,
        duration_s=round((run.ended_at or run.started_at) - run.started_at, 3),
        state=run.state,
        requests=requests,
        failures=run.failures,
        yields=run.yields,
        method=METHOD,
        cells=results,
        left_out=left_out,
        fleet=fleet,
    )


def jobs(run: BenchmarkRun | None) -> list[Job]:
    """The current or last run as a job of the dashboard; empty before the first run."""
    if run is None:
        return []
    job = Job(
        job_id=run.run_id,
        kind="benchmark",
        title="Benchmark",
        node_id="",
        state=run.state,
        done=run.done,
        total=len(run.plan.probes),
        unit="requests",
        started_at=run.started_at,
        ended_at=run.ended_at,
        message=run.message,
        may_cancel=run.state == "running",
    )
    return [job]


def to_result(cell: BenchmarkCell) -> BenchmarkResult:
    return BenchmarkResult(
        cell.node_id,
        cell.model,
        _spread(cell.decode_tok_s),
        _spread(cell.prefill_tok_s),
        _spread(cell.ttft_s, 1000.0),
        _spread(cell.load_s),
        tuple(ScalePoint(streams, round(tok_s, 2)) for streams, tok_s in cell.scaling),
    )


def to_cell(result: BenchmarkResult) -> BenchmarkCell:
    """The core's record of a stored measurement."""
    return BenchmarkCell(
        NodeId(result.node_id),
        ModelName(result.model),
        _core_spread(result.decode_tok_s),
        _core_spread(result.prefill_tok_s),
        _core_spread(result.ttft_ms),
        _core_spread(result.load_s),
        tuple((point.concurrency, point.tok_s) for point in result.scaling),
    )


def changes_between(first: BenchmarkDetails, second: BenchmarkDetails) -> dict[NodeId, str]:
    """What changed on each node between two runs, as text."""
    found: dict[NodeId, str] = {}
    for node_id, now in second.fleet.items():
        before = first.fleet.get(node_id)
        if before is not None:
            texts = [
                f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
                for name in sorted({*before, *now})
                if before.get(name) != now.get(name)
            ]
            if texts:
                found[NodeId(node_id)] = ", ".join(texts[:3])
    return found


def _row(finished: FinishedRun) -> tuple[object, ...]:
    run, results = to_details(finished), finished.run.results
    latencies, firsts = _generation_times_ms(results)
    prompt_tokens, output_tokens = (
        sum(each.prompt_tokens for each in results),
        sum(each.output_tokens for each in results),
    )
    busy_s = max(sum(each.took_s for each in results), 1e-9)
    by_model: dict[str, dict[str, float | None]] = {}
    for cell in run.cells:
        by_model.setdefault(cell.model, {})[cell.node_id] = (
            cell.decode_tok_s.median if cell.decode_tok_s is not None else None
        )
    stored = StoredRun(run.state, run.yields, run.method, run.cells, run.left_out)
    peak = {"tokens_per_sec": max((point.tok_s for cell in run.cells for point in cell.scaling), default=None)}
    return (
        run.run_id,
        run.timestamp,
        run.duration_s,
        run.requests,
        run.failures,
        prompt_tokens,
        output_tokens,
        run.requests / busy_s,
        output_tokens / busy_s,
        *(_percentile(latencies, percent) for percent in (50, 95, 99)),
        *(_percentile(firsts, percent) for percent in (50, 95, 99)),
        _json(run.fleet),
        _json(by_model),
        _json(stored),
        _json(peak),
    )


def _generation_times_ms(results: Sequence[ProbeResult]) -> tuple[list[float], list[float]]:
    """Total times and times to first token of the generation probes, in milliseconds, sorted."""
    decoding = [each for each in results if each.probe.kind is ProbeKind.DECODE]
    return sorted(1000.0 * each.took_s for each in decoding), sorted(
        1000.0 * each.first_s for each in decoding if each.first_s is not None
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[min(len(ordered) - 1, percent * len(ordered) // 100)] if ordered else None


def _run(row: Mapping[str, object]) -> BenchmarkDetails:
    stored = _decoded(row["per_node_results"], StoredRun) or StoredRun()
    fleet = _decoded(row["fleet_snapshot"], dict[str, dict[str, str]]) or {}
    numbers = [
        value if isinstance(value, int | float) else 0
        for value in (row["timestamp"], row["duration_s"], row["total_requests"], row["total_failures"])
    ]
    return BenchmarkDetails(
        run_id=str(row["run_id"]),
        timestamp=float(numbers[0]),
        duration_s=float(numbers[1]),
        state=stored.state,
        requests=int(numbers[2]),
        failures=int(numbers[3]),
        yields=stored.yields,
        method=stored.method,
        cells=stored.cells,
        left_out=stored.left_out,
        fleet=fleet,
    )


def _line(run: BenchmarkDetails) -> BenchmarkRunLine:
    nodes, models = sorted({cell.node_id for cell in run.cells}), sorted({cell.model for cell in run.cells})
    return BenchmarkRunLine(
        run_id=run.run_id,
        timestamp=run.timestamp,
        duration_s=run.duration_s,
        state=run.state,
        requests=run.requests,
        failures=run.failures,
        yields=run.yields,
        nodes=tuple(nodes),
        models=tuple(models),
    )


def _decoded(text: object, kind: type[Decoded]) -> Decoded | None:
    """None for JSON of another shape, which another program wrote."""
    try:
        return msgspec.json.decode(text, type=kind) if isinstance(text, str) else None
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None


def _spread(spread: Spread | None, factor: float = 1.0) -> MeasuredSpread | None:
    if spread is None:
        return None
    return MeasuredSpread(
        round(spread.median * factor, 3), round(spread.low * factor, 3), round(spread.high * factor, 3), spread.count
    )


def _core_spread(shown: MeasuredSpread | None) -> Spread | None:
    """None if the value was rounded to 0."""
    return Spread(shown.median, shown.low, shown.high, shown.count) if shown is not None and shown.low > 0 else None


def _rows(cursor: sqlite3.Cursor) -> list[dict[str, object]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, values, strict=True)) for values in cursor]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
