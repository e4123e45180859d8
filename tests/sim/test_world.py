"""Tests the dispatcher in the simulated world: every request ends, all invariants hold, equal seeds give equal runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import herd
from builders import a_model_info
from herd.core.state.commands import Dispatch
from herd.core.state.fleet import NodeId, canonical
from herd.core.state.request import FailureKind, Outcome, RequestId
from sim.catalog import POLICIES, SCENARIOS
from sim.compose import SimPolicy, build_world
from sim.continuing import RESET_S, STALL_TIMEOUT_S, Continuations
from sim.requests import SimRequest
from sim.runner import Run
from sim.simulation import Scenario
from sim.traces import Traces

REQUESTS = 60
ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(herd.__file__).resolve().parents[1]


def scenario(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def baseline(name: str) -> SimPolicy:
    return next(policy for policy in POLICIES if policy.name == name)


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_every_request_of_a_scenario_ends_and_all_invariants_hold(name: str) -> None:
    play = scenario(name).build(Traces(), 1.0, REQUESTS, Random(5))
    world = build_world(play, baseline("completion_time"), Random(5))
    served = world.run(checked=True).served
    assert world.problems == []
    assert not world.dispatcher.live_requests
    assert len(served) >= REQUESTS * 0.9
    assert len({result.request.id for result in served}) == len(served)
    lost = [result.request.id for result in served if result.outcome is not Outcome.COMPLETED]
    assert not lost


@pytest.mark.parametrize("name", [policy.name for policy in POLICIES])
def test_every_policy_answers_every_request(name: str) -> None:
    play = scenario("S6").build(Traces(), 0.5, REQUESTS, Random(7))
    world = build_world(play, baseline(name), Random(7))
    served = world.run(checked=True).served
    assert world.problems == []
    assert [result.outcome for result in served] == [Outcome.COMPLETED] * len(served)


def test_no_answer_is_faster_than_the_machine() -> None:
    play = scenario("S2").build(Traces(), 1.0, REQUESTS, Random(5))
    world = build_world(play, baseline("hot_first"), Random(5))
    for result in world.run().served:
        speed = world.nodes[result.node_id].truth[result.request.name]  # type: ignore[index]
        assert result.first_s is not None and result.first_s >= 0.99 * result.request.prompt_tokens / speed.prompt_per_s
        assert result.total_s >= 0.99 * ((result.request.output_tokens - 1) * speed.step_s)


@pytest.mark.parametrize("name", ["completion_time", "hot_first_weighted", "least_connections", "seven_signals"])
@pytest.mark.parametrize("where", ["S8", "S9b"])
def test_streams_of_a_lost_node_are_continued(where: str, name: str) -> None:
    """With every policy alike; a continued answer takes longer than one of a node that stays."""
    for seed in range(3):
        play = scenario(where).build(Traces(), 1.0, 150, Random(seed))
        world = build_world(play, baseline(name), Random(seed))
        served = world.run(checked=True).served
        assert world.problems == []
        assert [result.request.id for result in served if result.outcome is not Outcome.COMPLETED] == []


def a_stream(written: int, pace_s: float = 9.0, output_tokens: int = 50) -> tuple[Continuations, Run]:
    """A stream whose node has written this much of its answer when it disappears."""
    continuations = Continuations()
    request = SimRequest(id="r", at=0.0, model="m", prompt_tokens=1000, output_tokens=output_tokens, estimate=900)
    continuations.request_for(a_dispatch(pace_s), request)
    return continuations, Run(
        request=request, attempt=1, arrived_at=0.0, first_at=1.0 if written else None, left=output_tokens - written
    )


def a_dispatch(pace_s: float) -> Dispatch:
    model_info = a_model_info()
    return Dispatch(
        request_id=RequestId("r"),
        attempt=1,
        node_id=NodeId("a"),
        model=canonical("m"),
        model_info=model_info,
        score=0.0,
        retries=0,
        fallback=None,
        pace_s=pace_s,
    )


def test_another_node_reads_the_prompt_and_the_partial_answer_and_writes_the_rest() -> None:
    continuations, run = a_stream(written=20)
    assert continuations.lost(run, is_hanging=False) is not None
    second = continuations.request_for(a_dispatch(9.0), run.request)
    assert (second.prompt_tokens, second.output_tokens, second.estimate) == (1020, 30, 900)
    again = replace(run, request=second, left=25.0)
    assert continuations.lost(again, is_hanging=False) is not None
    third = continuations.request_for(a_dispatch(9.0), run.request)
    assert (third.prompt_tokens, third.output_tokens) == (1025, 25)
    continuations.forget("r")
    assert continuations.request_for(a_dispatch(9.0), run.request) is run.request


@pytest.mark.parametrize(
    ("written", "is_hanging", "pace_s", "kind", "after_s"),
    [
        (20, False, 9.0, FailureKind.RESET, RESET_S),
        (20, True, 9.0, FailureKind.FROZEN, 9.0),
        (20, True, 0.0, FailureKind.STALLED, STALL_TIMEOUT_S),
        (0, False, 9.0, FailureKind.RESET, RESET_S),
        (0, True, 9.0, None, 0.0),
    ],
)
def test_lost_stream_fails_when_the_product_would_notice_it(
    written: int, is_hanging: bool, pace_s: float, kind: FailureKind | None, after_s: float
) -> None:
    continuations, run = a_stream(written, pace_s)
    failed = continuations.lost(run, is_hanging)
    if kind is None:
        assert failed is None
        return
    assert failed is not None and (failed[0].kind, failed[1]) == (kind, after_s)
    assert bool(failed[0].continuation_kinds) is bool(failed[0].bytes_forwarded) is (written > 0)


DIGESTS = """
from random import Random
from sim.catalog import POLICIES, SCENARIOS
from sim.compose import build_world
from sim.traces import Traces
for scenario in SCENARIOS:
    for name in ("completion_time", "random", "prefix_hash"):
        baseline = next(policy for policy in POLICIES if policy.name == name)
        world = build_world(scenario.build(Traces(), 0.8, 40, Random(11)), baseline, Random(11))
        print(scenario.name, name, world.run(digest=True).digest)
"""


def test_the_same_seed_gives_the_same_run_in_processes_with_different_hash_seeds() -> None:
    outputs = set()
    for hash_seed, sources in (("1", ROOT / "src"), ("2", SOURCES)):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{sources}{os.pathsep}{ROOT}"}
        ran = subprocess.run(
            [sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, check=True
        )
        outputs.add(ran.stdout)
    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) > 20
