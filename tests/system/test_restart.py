"""Tests that learned estimates survive a restart of the coordinator."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from builders import a_request
from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from herd.core.state.fleet import canonical

MODELS = [FakeModel(name="m", answer_tokens=24), FakeModel(name="k", answer_tokens=12)]


def chat(fleet: Fleet, model: str, number: int) -> None:
    words = f"word{number} " * 40
    body = b'{"model": "%s", "stream": false, "messages": [{"role": "user", "content": "%s"}]}' % (
        model.encode(),
        words.encode(),
    )
    fleet.ask("POST", "/api/chat", body)
    fleet.settle()


def expected(fleet: Fleet) -> dict[str, float]:
    """The estimated prefill and decode seconds of each model on each node, which do not depend on the current time."""
    scheduler, now = fleet.coordinator.driver.dispatcher.scheduler, fleet.coordinator.driver.now
    found: dict[str, float] = {}
    for model in ("m", "k"):
        request = a_request("asked", model, prompt_tokens=700)
        decision = fleet.on_loop(lambda request=request: scheduler.decide(request, request.model, now()))
        found |= {
            f"{model} {one.node_id} {term}": one.expected_s[term]
            for one in decision.scored
            for term in ("prefill", "decode")
        }
    return found


def test_learned_estimates_survive_a_restart(tmp_path: Path) -> None:
    with FakeOllama(MODELS) as alpha, FakeOllama(MODELS) as beta:
        nodes, machines = {"alpha": alpha, "beta": beta}, {"alpha": Machine(more={"memory_bandwidth_gbps": 120.0})}
        with running_fleet(nodes, machines, data_dir=tmp_path) as fleet:
            fleet.beat()
            untaught = expected(fleet)
            for number in range(12):
                chat(fleet, "mk"[number % 2], number)
            fleet.beat()
            before = expected(fleet)
        assert before != pytest.approx(untaught)
        with running_fleet(nodes, machines, data_dir=tmp_path) as fleet:
            assert expected(fleet) == pytest.approx(before)


def test_invalid_learned_estimates_are_ignored_at_the_start(tmp_path: Path) -> None:
    with FakeOllama(MODELS) as alpha:
        with running_fleet({"alpha": alpha}, data_dir=tmp_path) as fleet:
            fresh = expected(fleet)
        with closing(sqlite3.connect(tmp_path / "latency.db")) as connection:
            rows = [
                (kind, "alpha", canonical("m"), numbers, 4e9)
                for kind in ("pair", "node", "model", "output", "tokens", "x")
                for numbers in ('{"prompt_log": 1e300, "prompt_samples": 1}',)
            ]
            connection.executemany("INSERT INTO learnt VALUES (?, ?, ?, ?, ?)", rows)
            connection.commit()
        with running_fleet({"alpha": alpha}, data_dir=tmp_path) as fleet:
            assert expected(fleet) == pytest.approx(fresh)
