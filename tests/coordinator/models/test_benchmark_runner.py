"""Tests benchmarks on a running coordinator while client requests arrive."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fakes.faults import Cut, Hang, How, Status
from fakes.fleet import Fleet, Machine, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings
from herd.coordinator.models.benchmark_runner import BenchmarkSelection, BenchmarkSettings
from herd.core.planning.benchmark_stats import ProbeKind
from herd.core.state.fleet import ModelName, NodeId
from herd.dashboard.pages.benchmarks import BenchmarkDetails, BenchmarkProgress, BenchmarkRuns, BenchmarkStarted

Json = dict[str, Any]
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": False}).encode()


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama(["m"], FakeSettings(num_parallel=4)) as fake:
        yield fake


@pytest.fixture
def fleet(fake: FakeOllama) -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), benchmarks=BenchmarkSettings(quiet_s=0.0))
    with running_fleet({"alpha": fake}, settings=settings) as running:
        yield running


def post(fleet: Fleet, path: str, body: object = None) -> tuple[int, Json]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request(
        "POST", f"/dashboard/api/benchmarks/{path}", json.dumps(body or {}), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def start(fleet: Fleet, **asked: object) -> str:
    status, answer = post(fleet, "start", asked)
    assert status == 202, answer
    return str(msgspec.convert(answer, BenchmarkStarted).run_id)


def ended(fleet: Fleet) -> BenchmarkProgress:
    async def over() -> None:
        task = fleet.coordinator.benchmarks._task
        assert task is not None
        await asyncio.wait_for(asyncio.shield(task), 30)

    fleet.thread.run(over())
    return progress(fleet)


def progress(fleet: Fleet) -> BenchmarkProgress:
    return msgspec.convert(fleet.get("/dashboard/api/benchmarks/progress"), BenchmarkProgress)


def a_run(fleet: Fleet, run_id: str) -> BenchmarkDetails:
    return msgspec.convert(fleet.get(f"/dashboard/api/benchmarks/{run_id}"), BenchmarkDetails)


def measured(fleet: Fleet, **asked: object) -> BenchmarkDetails:
    run_id = start(fleet, **asked)
    ended(fleet)
    return a_run(fleet, run_id)


def test_load_prefill_decode_and_scaling_are_measured_and_returned(fleet: Fleet, fake: FakeOllama) -> None:
    run = measured(fleet)
    [cell] = run.cells
    assert (run.state, run.requests, run.failures, run.yields) == ("done", 1 + 3 + 3 + 2 + 4, 0, 0)
    assert (cell.node_id, cell.model) == ("alpha", "m:latest")
    assert (
        cell.load_s is not None
        and cell.ttft_ms is not None
        and cell.ttft_ms.low <= cell.ttft_ms.median <= cell.ttft_ms.high
    )
    assert cell.decode_tok_s is not None and cell.decode_tok_s.count == 3
    assert cell.prefill_tok_s is not None and [point.concurrency for point in cell.scaling] == [1, 2, 4]
    assert len(fake.inference) == run.requests and fake.reloads == 0


def test_a_run_is_listed_among_the_jobs(fleet: Fleet) -> None:
    assert fleet.on_loop(fleet.coordinator._jobs) == []
    run = measured(fleet, kinds=["generation"])
    [job] = fleet.on_loop(fleet.coordinator._jobs)
    assert (job.job_id, job.kind, job.state, job.done, job.total, job.may_cancel) == (
        run.run_id,
        "benchmark",
        "done",
        4,
        4,
        False,
    )


def test_all_prompts_differ_so_that_no_prefix_cache_has_them(fleet: Fleet, fake: FakeOllama) -> None:
    measured(fleet)
    prompts = [seen.body for seen in fake.inference if seen.path == "/api/chat"]
    assert len({prompt[: prompt.index(b"sea")] for prompt in prompts}) == len(prompts)


def test_a_dry_run_returns_an_estimate_and_measures_nothing(fleet: Fleet, fake: FakeOllama) -> None:
    status, answer = post(fleet, "start", {"dry_run": True})
    plan = msgspec.convert(answer, BenchmarkStarted)
    assert status == 200 and plan.run_id is None and plan.requests == 13 and plan.estimate_s > 1.0
    assert fake.inference == [] and progress(fleet).state == "idle"


def test_only_the_selection_is_measured(fleet: Fleet) -> None:
    run = measured(fleet, kinds=["prompt"], nodes=["alpha"], models=["m"])
    assert run.requests == 1 + 3 and run.cells[0].decode_tok_s is None and run.cells[0].scaling == ()


@pytest.mark.parametrize(
    "asked",
    [{"nodes": ["nobody"]}, {"models": ["nothing"]}, {"kinds": ["color"]}, {"nodes": "alpha"}, {"nodes": ["n"] * 300}],
)
def test_an_unknown_node_or_model_is_refused(fleet: Fleet, asked: Json) -> None:
    status, answer = post(fleet, "start", asked)
    assert status == 400 and answer["error"]


def test_a_second_run_is_refused_and_a_run_can_be_cancelled(fleet: Fleet, fake: FakeOllama) -> None:
    fake.fail(Hang(path="/api/chat"))
    run_id = start(fleet)
    fake.wait(lambda: any(seen.path == "/api/chat" for seen in fake.running), "the first probe")
    status, answer = post(fleet, "start")
    assert status == 409 and answer["error"] == f"benchmark {run_id} is running; cancel it with: herd bench --cancel"
    now = progress(fleet)
    assert (
        (now.state, now.done, now.total) == ("running", 1, 9)
        and now.left_s is not None
        and "decode of m" in now.message
    )
    assert post(fleet, "cancel")[1]["state"] == "cancelled"
    fake.wait(lambda: len(fake.aborted) == 1, "the probe's end")
    assert a_run(fleet, run_id).state == "cancelled"


def test_a_probe_is_cancelled_for_a_request_and_repeated_later(fleet: Fleet, fake: FakeOllama) -> None:
    hang = fake.fail(Hang(path="/api/chat", times=1))
    run_id = start(fleet, kinds=["generation"])
    fake.wait(lambda: any(seen.path == "/api/chat" for seen in fake.running), "the first probe")
    answer = fleet.ask("POST", "/api/chat", CHAT)
    assert answer["done"] is True
    fake.wait(lambda: len(fake.aborted) == 1, "the probe's end")
    hang.release()
    fleet.beat()  # the request loaded the model; the coordinator learns it from the heartbeat
    assert ended(fleet).state == "done"
    run = a_run(fleet, run_id)
    assert (
        run.yields == 1
        and run.failures == 0
        and run.cells[0].decode_tok_s is not None
        and run.cells[0].decode_tok_s.count == 3
    )


async def _restarted(fleet: Fleet) -> None:
    """Cancels the current run and starts another before the callbacks of the first have run."""
    runner = fleet.coordinator.benchmarks
    first = runner._task
    assert first is not None
    first.cancel()
    while not first.done():
        await asyncio.sleep(0)
    runner.start(BenchmarkSelection(kinds=frozenset({ProbeKind.DECODE})))


def test_a_run_that_starts_right_after_another_still_yields_to_requests(fleet: Fleet, fake: FakeOllama) -> None:
    hang = fake.fail(Hang(path="/api/chat", times=2))
    start(fleet, kinds=["generation"])
    fake.wait(lambda: any(seen.path == "/api/chat" for seen in fake.running), "the probe of the first run")
    fleet.thread.run(_restarted(fleet))
    fake.wait(lambda: hang.used == 2, "the probe of the second run")
    assert fleet.ask("POST", "/api/chat", CHAT)["done"] is True
    fake.wait(lambda: len(fake.aborted) == 2, "the end of that probe")
    hang.release()
    fleet.beat()
    assert ended(fleet).state == "done"


def test_a_run_waits_for_a_busy_node(fleet: Fleet, fake: FakeOllama) -> None:
    fleet.ask("POST", "/api/chat", CHAT)
    fleet.beat()
    hang = fake.fail(Hang(path="/api/chat", times=1))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(fleet.ask, "POST", "/api/chat", CHAT)
        fake.wait(lambda: len(fake.running) == 1, "somebody's request")
        start(fleet, kinds=["generation"])
        seen = len(fake.requests)
        looked = fleet.thread.run(_looked(fleet))
        assert looked == "waiting for an idle node" and len(fake.requests) == seen
        hang.release()
        asked.result(30)
    fleet.beat()
    assert ended(fleet).state == "done"


async def _looked(fleet: Fleet) -> str:
    """Lets the run check its nodes once, without waiting for its clock."""
    benchmarks = fleet.coordinator.benchmarks
    assert benchmarks.run is not None
    step = asyncio.ensure_future(benchmarks._step(benchmarks.run))
    await asyncio.sleep(0)
    message = benchmarks.run.message
    step.cancel()
    return message


def test_a_run_is_stored_under_the_public_column_names(fleet: Fleet) -> None:
    run = measured(fleet)
    assert fleet.coordinator.store.flush()
    with sqlite3.connect(fleet.coordinator.store.path) as database:
        row = database.execute(
            "SELECT run_id, total_requests, total_failures, tokens_per_sec, ttft_p50_ms, per_model_results "
            "FROM benchmark_runs"
        ).fetchone()
    database.close()
    assert (
        row[:3] == (run.run_id, run.requests, 0)
        and row[3] > 0
        and row[4] > 0
        and list(json.loads(row[5])) == ["m:latest"]
    )
    fleet.on_loop(lambda: setattr(fleet.coordinator.benchmarks, "run", None))
    assert a_run(fleet, run.run_id) == run
    [line] = msgspec.convert(fleet.get("/dashboard/api/benchmarks"), BenchmarkRuns).runs
    assert (line.run_id, line.nodes, line.models) == (run.run_id, ("alpha",), ("m:latest",))


def test_runs_of_other_programs_are_listed_without_measurements(fleet: Fleet) -> None:
    with sqlite3.connect(fleet.coordinator.store.path, timeout=10) as database:
        database.execute(
            "INSERT INTO benchmark_runs (run_id, timestamp, duration_s, total_requests, total_failures, "
            "total_prompt_tokens, total_completion_tokens, per_node_results, fleet_snapshot) "
            "VALUES ('old', 1.0, 2.0, 3, 0, 4, 5, '{\"cells\": 7}', 'not json')"
        )
    database.close()
    run = a_run(fleet, "old")
    assert (run.state, run.requests, run.cells, run.fleet) == ("done", 3, (), {})


def test_two_runs_are_compared(fleet: Fleet) -> None:
    first, second = measured(fleet), measured(fleet)
    assert fleet.coordinator.store.flush()
    found = msgspec.convert(
        fleet.get(f"/dashboard/api/benchmarks?compare={first.run_id},{second.run_id}"), BenchmarkRuns
    ).comparison
    assert found is not None and (found.a, found.b) == (first.run_id, second.run_id)
    assert {one.measure for one in found.cells} >= {
        "decode_tok_s",
        "prefill_tok_s",
        "ttft_ms",
    } and found.verdict.endswith(".")


@pytest.mark.parametrize("path", ["benchmarks/nothing", "benchmarks?compare=a", "benchmarks?compare=a,b"])
def test_an_unknown_run_is_not_found(fleet: Fleet, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", f"/dashboard/api/{path}")
    response = connection.getresponse()
    assert response.status in (400, 404) and json.loads(response.read())["error"]
    connection.close()


def test_the_scheduler_uses_the_measured_speeds(fleet: Fleet, fake: FakeOllama) -> None:
    def is_learned() -> bool:
        return fleet.coordinator.driver.forecast.speeds.is_learned(NodeId("alpha"), ModelName("m:latest"))

    assert fleet.on_loop(is_learned) is False
    measured(fleet, kinds=["prompt"])
    assert fleet.on_loop(is_learned) is True


@pytest.mark.parametrize(
    "fault",
    [Status(status=500, path="/api/chat"), Cut(path="/api/chat", after_bytes=400, how=How.FIN)],
    ids=["500", "cut"],
)
def test_a_model_that_fails_is_skipped_with_the_reason(fleet: Fleet, fake: FakeOllama, fault: Status | Cut) -> None:
    fake.fail(fault)
    run = measured(fleet, kinds=["generation"])
    assert (run.state, run.failures) == ("done", 3) and run.left_out[0].reason
    assert run.cells[0].decode_tok_s is None


def test_a_benchmark_does_not_load_a_model_that_would_evict_another() -> None:
    models = [FakeModel(name="small", size_bytes=2 * 10**9), FakeModel(name="large", size_bytes=12 * 10**9)]
    settings = replace(settings_for_tests(), benchmarks=BenchmarkSettings(quiet_s=0.0))
    full = {"alpha": Machine(memory_gb=16.0, used_gb=10.0)}
    with FakeOllama(models) as fake, running_fleet({"alpha": fake}, full, settings) as fleet:
        run = measured(fleet)
        assert [(one.model, one.reason) for one in run.left_out] == [
            ("large:latest", "the model does not fit beside the loaded models")
        ]
        assert {cell.model for cell in run.cells} == {"small:latest"} and fake.loaded == ["small:latest"]


def test_a_node_that_goes_offline_is_skipped(fleet: Fleet, fake: FakeOllama) -> None:
    fake.fail(Hang(path="/api/chat"))
    run_id = start(fleet)
    fake.wait(lambda: any(seen.path == "/api/chat" for seen in fake.running), "the first probe")

    def gone() -> None:
        driver = fleet.coordinator.driver
        driver.dispatcher._handle_lost_node(driver.fleet.nodes[NodeId("alpha")], driver.now(), [])
        fleet.coordinator.benchmarks._yield_node(NodeId("alpha"))

    fleet.on_loop(gone)
    assert ended(fleet).state == "done"
    assert [one.reason for one in a_run(fleet, run_id).left_out] == ["the node went offline"]
    fake.heal()


def test_a_run_stops_at_its_time_limit_with_the_results_so_far(fake: FakeOllama) -> None:
    settings = replace(settings_for_tests(), benchmarks=BenchmarkSettings(quiet_s=0.0, run_max_s=0.3))
    with running_fleet({"alpha": fake}, settings=settings) as fleet:
        fake.fail(Hang(path="/api/chat"))
        run = measured(fleet)
        fake.heal()
    assert run.state == "done" and run.cells[0].load_s is not None


def test_a_coordinator_that_stops_cancels_its_benchmark(fake: FakeOllama) -> None:
    with running_fleet({"alpha": fake}) as fleet:
        fake.fail(Hang(path="/api/chat"))
        start(fleet)
    assert fleet.coordinator.benchmarks.run is not None and fleet.coordinator.benchmarks.run.state == "cancelled"
    fake.heal()
