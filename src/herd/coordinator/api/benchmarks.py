"""Serves the routes that start, watch, cancel, list and compare benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.audit import audit_entry
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.models.benchmark_runner import BenchmarkPlan, BenchmarkRun, BenchmarkRunner, select
from herd.coordinator.storage.model_tests import benchmark_runs
from herd.coordinator.storage.model_tests.benchmark_runs import FinishedRun, SentBenchmark
from herd.coordinator.storage.writer import TraceStore
from herd.core.planning.benchmark_stats import compare
from herd.dashboard.pages.benchmarks import (
    BenchmarkDetails,
    BenchmarkProgress,
    BenchmarkRuns,
    BenchmarkStarted,
    BenchmarkStartRequest,
    MeasuredChange,
    RunComparison,
    SkippedMeasurement,
)
from herd.errors import BadRequest, UnknownModel
from herd.trust.rights import Right

ID_MAX_CHARS = 100


class BenchmarksApi:
    def __init__(self, benchmarks: BenchmarkRunner, driver: Driver, store: TraceStore) -> None:
        self._benchmarks, self._driver, self._store = benchmarks, driver, store

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/benchmarks", json_errors(self.runs), "GET", Right.READ, query=("compare",)),
            ApiRoute("/dashboard/api/benchmarks", json_errors(self.save), "POST", Right.ADMIN, SentBenchmark),
            ApiRoute(
                "/dashboard/api/benchmarks/start", json_errors(self.start), "POST", Right.ADMIN, BenchmarkStartRequest
            ),
            ApiRoute("/dashboard/api/benchmarks/progress", json_errors(self.progress), "GET", Right.READ),
            ApiRoute("/dashboard/api/benchmarks/cancel", json_errors(self.cancel), "POST", Right.ADMIN),
            ApiRoute("/dashboard/api/benchmarks/{run_id}", json_errors(self.one), "GET", Right.READ),
        ]

    async def runs(self, request: Request) -> Response:
        """Lists stored benchmark runs, newest first. `compare=A,B` also compares two runs."""
        pair = request.query_params.get("compare")
        comparison = await self._compared(pair) if pair else None
        run = self._benchmarks.run
        running = run.run_id if run is not None and run.state == "running" else None
        return json_response(
            BenchmarkRuns(tuple(await self._store.ask(benchmark_runs.recent_runs)), running, comparison)
        )

    async def save(self, request: Request) -> Response:
        """Stores the results of another program's benchmark, such as the script of ollama-herd."""
        sent = await read_body(request, SentBenchmark)
        if not 0 < len(sent.run_id) <= ID_MAX_CHARS:
            raise BadRequest(f"run_id must have 1 to {ID_MAX_CHARS} characters")
        now = time.time()
        self._store.write(lambda connection: benchmark_runs.insert_sent(connection, sent, now))
        self._store.audit(audit_entry(request, "stored a benchmark", sent.run_id))
        return json_response({"status": "saved", "run_id": sent.run_id})

    async def start(self, request: Request) -> Response:
        """Starts a benchmark on idle nodes; client requests go first. With `dry_run`, only estimates its duration."""
        body = await read_body(request, BenchmarkStartRequest)
        selection = select(body.nodes, body.models, body.kinds)
        if body.dry_run:
            return json_response(_started(None, self._benchmarks.plan(selection)))
        run = self._benchmarks.start(selection)
        self._store.audit(audit_entry(request, "started a benchmark", run.run_id))
        return json_response(_started(run.run_id, run.plan), 202)

    async def progress(self, _: Request) -> Response:
        """Returns the progress of the current run, or the result of the last one."""
        return json_response(self._progress())

    async def cancel(self, request: Request) -> Response:
        """Cancels the current run; measurements made so far are stored."""
        await self._benchmarks.cancel()
        run = self._benchmarks.run
        if run is not None:
            self._store.audit(audit_entry(request, "cancelled a benchmark", run.run_id))
        return json_response(self._progress())

    async def one(self, request: Request) -> Response:
        """Returns the measurements of one run by node and model, with their spread."""
        return json_response(await self._found(str(request.path_params["run_id"])))

    async def _found(self, run_id: str) -> BenchmarkDetails:
        """The run with this id. The current or last run is read from memory, because it may not be stored yet."""
        run = self._benchmarks.run
        if run is not None and run.run_id == run_id:
            return benchmark_runs.to_details(FinishedRun(run, benchmark_runs.describe_fleet(self._driver.fleet)))
        found = await self._store.ask(benchmark_runs.find_run, run_id[:ID_MAX_CHARS])
        if found is None:
            raise UnknownModel(
                f"no benchmark run {run_id[:ID_MAX_CHARS]!r}; list the runs with: herd bench --list", code="not_found"
            )
        return found

    async def _compared(self, pair: str) -> RunComparison:
        names = [name.strip() for name in pair.split(",")]
        if len(names) != 2 or not all(names):
            raise BadRequest("compare needs two run ids: compare=A,B")
        first, second = await self._found(names[0]), await self._found(names[1])
        before, after = ([benchmark_runs.to_cell(each) for each in run.cells] for run in (first, second))
        found = compare(before, after, benchmark_runs.changes_between(first, second))
        changes = tuple(
            MeasuredChange(
                node_id=difference.node_id,
                model=difference.model,
                measure=difference.measure,
                a=difference.first,
                b=difference.second,
                change=difference.change,
                plus_minus=difference.plus_minus,
                is_clear=difference.is_clear,
            )
            for difference in found.differences
        )
        return RunComparison(first.run_id, second.run_id, found.summary, found.change, found.plus_minus, changes)

    def _progress(self) -> BenchmarkProgress:
        run, left_s = self._benchmarks.run, self._benchmarks.left_s()
        if run is None:
            return BenchmarkProgress(None, "idle", 0, 0, "", None, 0)
        return BenchmarkProgress(
            run.run_id,
            run.state,
            run.done,
            len(run.plan.probes),
            run.message,
            round(left_s, 1) if left_s is not None else None,
            run.yields,
        )


def _started(run_id: str | None, plan: BenchmarkPlan) -> BenchmarkStarted:
    left_out = tuple(SkippedMeasurement(node_id, model, reason) for (node_id, model), reason in plan.left_out.items())
    return BenchmarkStarted(run_id, round(plan.estimate_s, 1), sum(probe.requests for probe in plan.probes), left_out)


def run_writer(store: TraceStore, driver: Driver) -> Callable[[BenchmarkRun], None]:
    """A function that stores a finished run if it has any measurement."""

    def write(run: BenchmarkRun) -> None:
        finished = FinishedRun(run, benchmark_runs.describe_fleet(driver.fleet))
        if run.results:
            store.write(lambda connection: benchmark_runs.insert_run(connection, finished))

    return write
