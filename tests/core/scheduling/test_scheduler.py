"""Tests that a decision has every candidate, is repeatable, and costs only as much as it has candidates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import herd
from builders import a_model_info, a_report, a_request, a_world, all_signals
from herd.core.state.fleet import ModelName

SIGNALS_OF_AN_IDLE_HOT_NODE = {
    "thermal": 50.0,
    "memory_fit": 20.0,
    "queue_depth": 0.0,
    "wait_time": 0.0,
    "role_affinity": 15.0,
    "availability_trend": 0.0,
    "context_fit": 15.0,
}


def test_decision_has_every_candidate_with_points_or_reason() -> None:
    world = a_world()
    world.receives(
        a_report("hot", [a_model_info(loaded=True)]),
        a_report("cold", [a_model_info()]),
        a_report("tiny", [a_model_info(size_gb=2)], memory_gb=1, used_gb=0),
        a_report("other", [a_model_info("else")]),
    )
    decision = world.dispatcher.scheduler.decide(a_request(), ModelName("m:latest"), world.now)
    assert [scored.node_id for scored in decision.scored] == ["hot", "cold"]
    terms = decision.scored[0].terms
    assert set(terms) == {signal.name for signal in all_signals()}
    assert SIGNALS_OF_AN_IDLE_HOT_NODE.items() <= terms.items()
    assert decision.scored[0].total == 100.0
    assert {(r.node_id, r.filter) for r in decision.rejected} == {("tiny", "memory"), ("other", "has_model")}


def test_equal_nodes_are_chosen_by_queue_length_then_by_name() -> None:
    world = a_world()
    world.receives(*(a_report(name, [a_model_info(loaded=True, slots=4)]) for name in ("b", "a", "c")))
    chosen = []
    for number in range(6):
        [command] = world.arrives(f"r{number}")
        chosen.append(command.node_id)  # type: ignore[union-attr]
    assert chosen == ["a", "b", "c", "a", "b", "c"]


def test_nodes_already_tried_are_rejected_as_tried() -> None:
    world = a_world()
    world.receives(a_report("a", [a_model_info()]), a_report("b", [a_model_info()]))
    decision = world.dispatcher.scheduler.decide(a_request(), ModelName("m:latest"), world.now, ["a"])
    assert decision.chosen == "b"
    assert decision.rejected[0].filter == "tried"


def test_nodes_without_the_model_cost_nothing_in_a_large_fleet() -> None:
    world = a_world()
    world.receives(*(a_report(f"n{i}", [a_model_info("else")]) for i in range(100)), a_report("has", [a_model_info()]))
    decision = world.dispatcher.scheduler.decide(a_request(), ModelName("m:latest"), world.now)
    assert decision.chosen == "has"
    assert decision.rejected == []


DIGEST_PROGRAM = """
import hashlib
from random import Random
from builders import a_model_info, a_report, a_world
rng, world = Random(7), a_world()
for i in range(6):
    models = [a_model_info("m", loaded=i % 2 == 0, slots=2), a_model_info("k")]
    world.receives(a_report(f"n{i}", models, memory_gb=8 + 20 * i))
for i in range(400):
    world.now += rng.random() / 10
    world.arrives(f"r{i}", rng.choice(["m", "k"]))
    if i > 8 and f"r{i-8}" in world.dispatcher.live_requests and world.dispatcher.live_requests[f"r{i-8}"].is_running:
        world.first_byte(f"r{i-8}"); world.finishes(f"r{i-8}")
text = "\\n".join(repr([type(c).__name__, getattr(c, "node_id", ""), getattr(c, "score", "")]) for c in world.commands)
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_equal_input_gives_equal_commands_in_processes_with_other_hash_seeds() -> None:
    root, imported = Path(__file__).parents[3], Path(herd.__file__).parents[1]
    digests = set()
    for seed, sources in (("1", root / "src"), ("2", imported), ("3", imported)):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(sources), str(root / "tests")])}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST_PROGRAM], env=env, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1
