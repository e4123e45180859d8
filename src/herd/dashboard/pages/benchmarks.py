"""Defines the answers of the benchmarks page: runs, results by node and model, progress, and comparisons."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.pages import Page


class MeasuredSpread(Struct, frozen=True):
    """Median, minimum and maximum of `count` repetitions."""

    median: float
    low: float
    high: float
    count: int


class ScalePoint(Struct, frozen=True):
    """Total tokens per second of `concurrency` concurrent requests."""

    concurrency: int
    tok_s: float


class BenchmarkResult(Struct, frozen=True):
    """The results of one model on one node; None if a value was not measured."""

    node_id: str
    model: str
    decode_tok_s: MeasuredSpread | None
    prefill_tok_s: MeasuredSpread | None
    ttft_ms: MeasuredSpread | None
    load_s: MeasuredSpread | None
    scaling: tuple[ScalePoint, ...]


class SkippedMeasurement(Struct, frozen=True):
    """A model on a node that was not measured, and the reason."""

    node_id: str
    model: str
    reason: str


class BenchmarkRunLine(Struct, frozen=True, kw_only=True):
    """`state`: "done", "cancelled" or "failed" (nothing could be measured). `yields` counts the pauses for client
    requests."""

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
    """`GET benchmarks/{run_id}`. `fleet` has the chip, GPUs, engines and model digests of each node."""

    run_id: str
    timestamp: float
    duration_s: float
    state: str
    requests: int
    failures: int
    yields: int
    method: str
    cells: tuple[BenchmarkResult, ...]
    left_out: tuple[SkippedMeasurement, ...]
    fleet: dict[str, dict[str, str]]


class MeasuredChange(Struct, frozen=True, kw_only=True):
    """`change` is relative and positive where run `b` is better; `plus_minus` is twice its standard error. `is_clear`:
    the change is larger than that."""

    node_id: str
    model: str
    measure: str
    a: float
    b: float
    change: float
    plus_minus: float
    is_clear: bool


class RunComparison(Struct, frozen=True):
    a: str
    b: str
    verdict: str
    change: float
    plus_minus: float
    cells: tuple[MeasuredChange, ...]


class BenchmarkRuns(Struct, frozen=True):
    """`GET benchmarks?compare=A,B`: newest first. `running` is the id of the run in progress; `comparison` is None
    without `compare`."""

    runs: tuple[BenchmarkRunLine, ...]
    running: str | None
    comparison: RunComparison | None


class BenchmarkStartRequest(Struct, frozen=True):
    """`POST benchmarks/start`: [] means all. `kinds`: "generation" (decode), "prompt" (prefill), "scaling" (concurrent
    requests). With `dry_run` the run is only estimated."""

    models: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    dry_run: bool = False


class BenchmarkStarted(Struct, frozen=True):
    """`run_id` is None for a dry run. `estimate_s` assumes idle nodes; the run waits while a node is busy."""

    run_id: str | None
    estimate_s: float
    requests: int
    left_out: tuple[SkippedMeasurement, ...]


class BenchmarkProgress(Struct, frozen=True):
    """`state` is "idle" if there was no run since the start, else "running" or the final state of the last run.
    `left_s` is None if no run is in progress."""

    run_id: str | None
    state: str
    done: int
    total: int
    message: str
    left_s: float | None
    yields: int


PAGE = Page(
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
