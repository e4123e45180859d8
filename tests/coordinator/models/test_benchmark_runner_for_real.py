"""Tests a benchmark of a real llama.cpp server against the engine's own counts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.llamacpp.engines import EngineSettings, LlamaEngine
from herd.coordinator.models.benchmark_runner import BenchmarkSettings, select
from herd.core.state.fleet import NodeId, canonical

pytest.importorskip("xllamacpp")

ALPHA, TINY = NodeId("alpha"), canonical("tiny")


async def run_whole(fleet: Fleet) -> None:
    benchmarks = fleet.coordinator.benchmarks
    benchmarks.start(select((), (), ()))
    assert benchmarks._task is not None
    await benchmarks._task


def test_speeds_of_a_real_engine_are_measured_with_their_spread_and_used() -> None:
    settings = replace(settings_for_tests(), benchmarks=BenchmarkSettings(quiet_s=0.0))
    with LlamaEngine(EngineSettings(slots=2)) as engine, running_fleet({"alpha": engine}, settings=settings) as fleet:
        fleet.thread.run(run_whole(fleet))
        run_id = fleet.get("/dashboard/api/benchmarks/progress")["run_id"]
        run = fleet.get(f"/dashboard/api/benchmarks/{run_id}")
        [cell] = run["cells"]
        assert run["state"] == "done" and run["failures"] == 0, json.dumps(run)
        # A quarter of a million parameters: thousands of tokens a second on any machine.
        assert 100 < cell["decode_tok_s"]["low"] <= cell["decode_tok_s"]["median"] <= cell["decode_tok_s"]["high"]
        assert cell["prefill_tok_s"]["median"] > cell["decode_tok_s"]["median"]
        assert cell["load_s"] is None and [point["concurrency"] for point in cell["scaling"]] == [1, 2]
        rates = fleet.coordinator.driver.forecast.speeds
        node = fleet.coordinator.driver.fleet.nodes[ALPHA]
        believed = fleet.on_loop(lambda: rates.speed(node, TINY))
        assert 0.2 < believed.prompt_tokens_per_s / cell["prefill_tok_s"]["median"] < 5
