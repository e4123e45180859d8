"""Benchmarks: how fast each machine really is, and whether a change helped. Knows no engine; the probes are made elsewhere."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.tabs import Tab


class SpreadBox(Struct, frozen=True):
    """The middle of what was seen and the ends of it, from `count` repetitions."""

    median: float
    low: float
    high: float
    count: int


class ScalePoint(Struct, frozen=True):
    """Tokens a second of all streams together."""

    concurrency: int
    tok_s: float


class CellBox(Struct, frozen=True):
    """One model on one node; None where it was not measured."""

    node_id: str
    model: str
    decode_tok_s: SpreadBox | None
    prefill_tok_s: SpreadBox | None
    ttft_ms: SpreadBox | None
    load_s: SpreadBox | None
    scaling: tuple[ScalePoint, ...]


class SkippedMeasurement(Struct, frozen=True):
    """What was not measured, and why."""

    node_id: str
    model: str
    reason: str


class BenchmarkRunLine(Struct, frozen=True, kw_only=True):
    """`state`: "done", "cancelled" or "failed" (nothing could be measured). `yields`: how often it gave way to somebody's request."""

    run_id: str
    timestamp: float
    duration_s: float
    state: str
    requests: int
    failures: int
    yields: int
    nodes: tuple[str, ...]
    models: tuple[str, ...]


class BenchmarkDetails(Struct, frozen=True, kw_only=True):
    """`GET benchmarks/{run_id}`. `fleet` tells for each node what it was: chip, cards, engines, digests."""

    run_id: str
    timestamp: float
    duration_s: float
    state: str
    requests: int
    failures: int
    yields: int
    method: str
    cells: tuple[CellBox, ...]
    left_out: tuple[SkippedMeasurement, ...]
    fleet: dict[str, dict[str, str]]


class DifferenceBox(Struct, frozen=True, kw_only=True):
    """`change` is relative, positive where `b` is better; `plus_minus` is twice its standard error."""

    node_id: str
    model: str
    measure: str
    a: float
    b: float
    change: float
    plus_minus: float
    is_clear: bool


class ComparisonBox(Struct, frozen=True):
    a: str
    b: str
    verdict: str
    change: float
    plus_minus: float
    cells: tuple[DifferenceBox, ...]


class BenchmarkRuns(Struct, frozen=True):
    """`GET benchmarks?compare=A,B`: newest first. `running` is the run in progress; `comparison` None unless it was asked for."""

    runs: tuple[BenchmarkRunLine, ...]
    running: str | None
    comparison: ComparisonBox | None


class BenchmarkStartRequest(Struct, frozen=True):
    """`POST benchmarks/start`: [] means all. `kinds`: "generation", "prompt", "scaling". `dry_run` only estimates."""

    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    dry_run: bool = False


class BenchmarkStarted(Struct, frozen=True):
    """`run_id` is None for a dry run. The estimate is of idle nodes: who is busy is waited for."""

    run_id: str | None
    estimate_s: float
    requests: int
    left_out: tuple[SkippedMeasurement, ...]


class BenchmarkProgress(Struct, frozen=True):
    """`state` is "idle" when no run was made since the start; else "running" or how the last one ended. `left_s` None when it is not running."""

    run_id: str | None
    state: str
    done: int
    total: int
    message: str
    left_s: float | None
    yields: int


TAB = Tab(
    "benchmarks",
    "Benchmarks",
    5,
    (
        DashboardRoute("GET", "benchmarks", BenchmarkRuns),
        DashboardRoute("POST", "benchmarks/start", BenchmarkStarted, BenchmarkStartRequest),
        DashboardRoute("GET", "benchmarks/progress", BenchmarkProgress),
        DashboardRoute("POST", "benchmarks/cancel", BenchmarkProgress),
        DashboardRoute("GET", "benchmarks/{run_id}", BenchmarkDetails),
    ),
)
