"""Benchmarks in the database: how a run becomes a row of `benchmark_runs` and is read again. Measures and compares nothing.

The columns are those of the existing product; the cells are JSON in `per_node_results`, what the fleet was in `fleet_snapshot`. Rows
of other programs are listed with what they have, and have no cells.
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
from herd.dashboard.tabs.benchmarks import (
    BenchmarkDetails,
    BenchmarkRunLine,
    CellBox,
    ScalePoint,
    SkippedMeasurement,
    SpreadBox,
)

Read = TypeVar("Read")

RUNS_KEPT = 500
SHOWN_MAX = 100
METHOD = (
    "idle nodes only, straight to the engine, 3 repetitions of each figure, a prompt never seen before each time; "
    "given up at once for anybody's request and made again later"
)
TEXT_MAX_CHARS = 300

INSERT = """INSERT OR REPLACE INTO benchmark_runs (
    run_id, timestamp, duration_s, total_requests, total_failures, total_prompt_tokens, total_completion_tokens, requests_per_sec, tokens_per_sec,
    latency_p50_ms, latency_p95_ms, latency_p99_ms, ttft_p50_ms, ttft_p95_ms, ttft_p99_ms, fleet_snapshot, per_model_results, per_node_results,
    peak_utilization
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SURPLUS = (
    "DELETE FROM benchmark_runs WHERE id IN (SELECT id FROM benchmark_runs ORDER BY timestamp DESC LIMIT -1 OFFSET ?)"
)
NEWEST = "SELECT * FROM benchmark_runs ORDER BY timestamp DESC, id DESC LIMIT ?"
ONE = "SELECT * FROM benchmark_runs WHERE run_id = ?"


class StoredRun(msgspec.Struct, frozen=True):
    """What is in `per_node_results`; everything has a default, so that a younger program can read what an older one wrote."""

    state: str = "done"
    yields: int = 0
    method: str = ""
    cells: tuple[CellBox, ...] = ()
    left_out: tuple[SkippedMeasurement, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that is over, and what the fleet was then: by node, in words."""

    run: BenchmarkRun
    fleet: Mapping[str, Mapping[str, str]]


def described(fleet: Fleet) -> dict[str, dict[str, str]]:
    """What makes a node fast or slow: for the comparison to say what became another."""
    found: dict[str, dict[str, str]] = {}
    for node in sorted(fleet, key=lambda one: one.id):
        report = node.report
        told = {
            "chip": report.chip,
            "os": report.os,
            "cards": ", ".join(gpu.name for gpu in report.gpus),
            "agent": report.agent_version,
        }
        told |= {face.kind: face.version for face in report.engines}
        found[node.id] = {name: text[:TEXT_MAX_CHARS] for name, text in told.items() if text}
    return found


def keep(connection: sqlite3.Connection, ended: Ended) -> None:
    """In one transaction. Expects a connection in autocommit mode. Raises `sqlite3.Error`."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(INSERT, _row(ended))
    connection.execute(SURPLUS, (RUNS_KEPT,))
    connection.execute("COMMIT")


def newest(connection: sqlite3.Connection, limit: int = SHOWN_MAX) -> list[BenchmarkRunLine]:
    """The newest first. Raises `sqlite3.Error`."""
    return [
        _line(run) for run in (_run(row) for row in _rows(connection.execute(NEWEST, (max(1, min(limit, SHOWN_MAX)),))))
    ]


def one(connection: sqlite3.Connection, run_id: str) -> BenchmarkDetails | None:
    """None where there is no such run. Raises `sqlite3.Error`."""
    return next((_run(row) for row in _rows(connection.execute(ONE, (run_id,)))), None)


def run_of(ended: Ended) -> BenchmarkDetails:
    """The run as it is shown, stored or not."""
    run = ended.run
    boxes = tuple(box(cell) for cell in cells(run.shown))
    left_out = tuple(
        SkippedMeasurement(node_id, model, reason[:TEXT_MAX_CHARS])
        for (node_id, model), reason in run.plan.left_out.items()
    )
    fleet = {node_id: dict(told) for node_id, told in ended.fleet.items()}
    requests = sum(shown.probe.requests for shown in run.shown)
    return BenchmarkDetails(
        run_id=run.run_id,
        timestamp=run.started_at,
        duration_s=round((run.ended_at or run.started_at) - run.started_at, 3),
        state=run.state,
        requests=requests,
        failures=run.failures,
        yields=run.yields,
        method=METHOD,
        cells=boxes,
        left_out=left_out,
        fleet=fleet,
    )


def jobs(run: BenchmarkRun | None) -> list[Job]:
    """The run that goes on or was the last, as a job of the dashboard; none before the first."""
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


def box(cell: BenchmarkCell) -> CellBox:
    return CellBox(
        cell.node_id,
        cell.model,
        _spread(cell.decode_tok_s),
        _spread(cell.prefill_tok_s),
        _spread(cell.ttft_s, 1000.0),
        _spread(cell.load_s),
        tuple(ScalePoint(streams, round(tok_s, 2)) for streams, tok_s in cell.scaling),
    )


def cell_of(shown: CellBox) -> BenchmarkCell:
    """Back from what was stored."""
    return BenchmarkCell(
        NodeId(shown.node_id),
        ModelName(shown.model),
        _seen(shown.decode_tok_s),
        _seen(shown.prefill_tok_s),
        _seen(shown.ttft_ms),
        _seen(shown.load_s),
        tuple((point.concurrency, point.tok_s) for point in shown.scaling),
    )


def changed(first: BenchmarkDetails, second: BenchmarkDetails) -> dict[NodeId, str]:
    """By node, in words, what became another between the two."""
    found: dict[NodeId, str] = {}
    for node_id, now in second.fleet.items():
        before = first.fleet.get(node_id)
        if before is not None:
            told = [
                f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
                for name in sorted({*before, *now})
                if before.get(name) != now.get(name)
            ]
            if told:
                found[NodeId(node_id)] = ", ".join(told[:3])
    return found


def _row(ended: Ended) -> tuple[object, ...]:
    run, shown = run_of(ended), ended.run.shown
    latencies, firsts = _of_writing(shown)
    read, written = sum(each.prompt_tokens for each in shown), sum(each.written_tokens for each in shown)
    busy_s = max(sum(each.took_s for each in shown), 1e-9)
    by_model: dict[str, dict[str, float | None]] = {}
    for cell in run.cells:
        by_model.setdefault(cell.model, {})[cell.node_id] = (
            cell.decode_tok_s.median if cell.decode_tok_s is not None else None
        )
    kept = StoredRun(run.state, run.yields, run.method, run.cells, run.left_out)
    peak = {"tokens_per_sec": max((point.tok_s for cell in run.cells for point in cell.scaling), default=None)}
    return (
        run.run_id,
        run.timestamp,
        run.duration_s,
        run.requests,
        run.failures,
        read,
        written,
        run.requests / busy_s,
        written / busy_s,
        *(_percentile(latencies, percent) for percent in (50, 95, 99)),
        *(_percentile(firsts, percent) for percent in (50, 95, 99)),
        _json(run.fleet),
        _json(by_model),
        _json(kept),
        _json(peak),
    )


def _of_writing(shown: Sequence[ProbeResult]) -> tuple[list[float], list[float]]:
    """Whole answers and first tokens of the plain requests, in milliseconds, sorted."""
    writing = [each for each in shown if each.probe.kind is ProbeKind.WRITING]
    return sorted(1000.0 * each.took_s for each in writing), sorted(
        1000.0 * each.first_s for each in writing if each.first_s is not None
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[min(len(ordered) - 1, percent * len(ordered) // 100)] if ordered else None


def _run(row: Mapping[str, object]) -> BenchmarkDetails:
    kept = _decoded(row["per_node_results"], StoredRun) or StoredRun()
    fleet = _decoded(row["fleet_snapshot"], dict[str, dict[str, str]]) or {}
    numbers = [
        value if isinstance(value, int | float) else 0
        for value in (row["timestamp"], row["duration_s"], row["total_requests"], row["total_failures"])
    ]
    return BenchmarkDetails(
        run_id=str(row["run_id"]),
        timestamp=float(numbers[0]),
        duration_s=float(numbers[1]),
        state=kept.state,
        requests=int(numbers[2]),
        failures=int(numbers[3]),
        yields=kept.yields,
        method=kept.method,
        cells=kept.cells,
        left_out=kept.left_out,
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


def _decoded(text: object, kind: type[Read]) -> Read | None:
    """None for what another program wrote in its own way."""
    try:
        return msgspec.json.decode(text, type=kind) if isinstance(text, str) else None
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None


def _spread(seen: Spread | None, factor: float = 1.0) -> SpreadBox | None:
    if seen is None:
        return None
    return SpreadBox(
        round(seen.median * factor, 3), round(seen.low * factor, 3), round(seen.high * factor, 3), seen.count
    )


def _seen(shown: SpreadBox | None) -> Spread | None:
    """Rounded to nothing is nothing."""
    return Spread(shown.median, shown.low, shown.high, shown.count) if shown is not None and shown.low > 0 else None


def _rows(cursor: sqlite3.Cursor) -> list[dict[str, object]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, values, strict=True)) for values in cursor]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
