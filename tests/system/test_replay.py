"""Replays recorded traces: unchanged settings reproduce every decision, other settings show what they change."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from fakes.faults import Cut, Status
from fakes.fleet import Fleet, Machine, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama
from herd.cli.client import CliError
from herd.cli.replay import ReplayRequest, compute_replay, lines, parse_options, to_json
from herd.coordinator.settings import GeneralSettings
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.state.fleet import GB
from terminal import herd

REQUESTS = 360
NOW = 4_000_000_000.0
"""Later than any row: most tests here do not depend on the age of rows."""
MODELS = ("small", "middle", "large")


def some_models(*names: str) -> list[FakeModel]:
    sizes = {"small": 2 * GB, "middle": 9 * GB, "large": 30 * GB}
    return [FakeModel(name=name, size_bytes=sizes[name], answer_tokens=4) for name in names]


def ask(fleet: Fleet, body: dict[str, object]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)
    with closing(connection):
        connection.request("POST", "/api/chat", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        try:
            response.read()
        except http.client.HTTPException:
            return 0
        return response.status


def a_body(rng: Random) -> dict[str, object]:
    model = rng.choice(["small", "small", "middle", "large", "nowhere"])
    fallbacks = ["small"] if model == "nowhere" and rng.random() < 0.7 else ["middle"] if rng.random() < 0.2 else []
    words = "word " * rng.choice([1, 20, 400])
    return {
        "model": model,
        "stream": rng.random() < 0.5,
        "messages": [{"role": "user", "content": words}],
        "fallback_models": fallbacks,
        "options": rng.choice([{}, {}, {"num_predict": 8}]),
    }


def a_busy_day(fleet: Fleet, fakes: list[FakeOllama], seed: int) -> None:
    """Many concurrent requests on few slots, with failures before and after the first byte, and heartbeats."""
    rng = Random(seed)
    for part in range(REQUESTS // 60):
        fault = Cut(after_bytes=rng.choice([0, 0, 400]), times=6) if part % 2 else Status(status=503, times=4)
        rng.choice(fakes).fail(fault)
        with ThreadPoolExecutor(24) as clients:
            list(clients.map(lambda body: ask(fleet, body), [a_body(rng) for _ in range(60)]))
        for fake in fakes:
            fake.heal()
        fleet.beat()
    fleet.settle()
    assert fleet.coordinator.store.flush()


@pytest.fixture(scope="module", params=["completion_time", "signals"])
def day(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    machines = {
        "alpha": Machine(64.0),
        "beta": Machine(16.0),
        "gamma": Machine(256.0, more={"memory_bandwidth_gbps": 800.0}),
    }
    settings = replace(
        settings_for_tests(),
        general=GeneralSettings(scheduler=request.param),
        holding=HoldingSettings(start_grace_s=0.0, wait_max_s=1.0),
    )
    with (
        FakeOllama(some_models("small", "middle")) as alpha,
        FakeOllama(some_models(*MODELS)) as beta,
        FakeOllama(some_models(*MODELS)) as gamma,
    ):
        nodes = {"alpha": alpha, "beta": beta, "gamma": gamma}
        with running_fleet(nodes, machines, settings) as fleet:
            a_busy_day(fleet, list(nodes.values()), seed=20261123)
            yield fleet


def path_of(fleet: Fleet) -> Path:
    return fleet.data_dir / "latency.db"


def counted(fleet: Fleet, sql: str) -> int:
    with closing(sqlite3.connect(path_of(fleet))) as connection:
        return int(connection.execute(f"SELECT COUNT(*) FROM request_traces WHERE {sql}").fetchone()[0])


def test_the_recorded_day_has_queues_and_failures(day: Fleet) -> None:
    assert counted(day, "status <> 'retried'") == REQUESTS
    for sql in (
        "status = 'retried'",
        "fallback_used",
        "status = 'rejected'",
        "held_ms > 0",
        "json_array_length(candidates, '$.rejected') > 0",
    ):
        assert counted(day, sql) > 0, sql


def test_unchanged_settings_reproduce_every_decision(day: Fleet) -> None:
    result = compute_replay(ReplayRequest(path_of(day)), NOW)
    assert result.unreadable == result.undecidable == result.incomplete == 0
    assert result.totals.changed == 0, to_json(result, ReplayRequest(path_of(day)))
    assert result.totals.choices + result.without_node == counted(day, "1") >= REQUESTS
    assert result.totals.choices == counted(day, "json_extract(candidates, '$.chosen') IS NOT NULL")


def test_each_recorded_decision_names_the_node_that_got_the_request(day: Fleet) -> None:
    assert counted(day, "status = 'completed' AND json_extract(candidates, '$.chosen') <> node_id") == 0


@pytest.mark.parametrize("policy", ["completion_time", "signals"])
def test_another_policy_is_tried_on_the_same_day(day: Fleet, policy: str) -> None:
    wanted = ReplayRequest(path_of(day), policy)
    result = compute_replay(wanted, NOW)
    assert result.undecidable == result.unreadable == result.incomplete == 0
    in_force = day.coordinator.settings.general.scheduler
    assert (result.totals.changed > 0) == (policy != in_force)
    assert (
        sum(before for before, _ in result.nodes.values())
        == sum(after for _, after in result.nodes.values())
        == result.totals.choices
    )
    values = to_json(result, wanted)
    assert sum(move["choices"] for model in values["models"] for move in model["moves"]) == values["changed"]
    assert result.totals.unestimated == 0
    if policy != in_force:
        text = "\n".join(line.plain for line in lines(result, wanted, 200))
        assert (
            "would change" in text
            and "Estimated: " in text
            and "The estimates are from the time of each decision" in text
            and " from " in text
        )


def test_the_command_prints_text_and_json(day: Fleet) -> None:
    plain, as_json = (herd("replay", "--db", str(path_of(day)), *more) for more in ((), ("--json",)))
    assert (plain.status, plain.err) == (0, "")
    assert "all identical (100 %)" in plain.out
    assert json.loads(as_json.out)["changed"] == 0
    none = herd("replay", "--db", str(day.data_dir), "--since", "0s")
    assert "No recorded decision could be replayed." in none.out


def test_a_limit_takes_the_newest(day: Fleet) -> None:
    result = compute_replay(ReplayRequest(path_of(day), limit=25), NOW)
    assert result.totals.choices + result.without_node == 25


def test_a_missing_or_invalid_database_is_reported_with_the_next_command(tmp_path: Path) -> None:
    result = herd("replay", "--db", str(tmp_path))
    assert result.status == 1 and "herd replay --db PATH" in result.err
    (tmp_path / "latency.db").write_bytes(b"no database at all, whatever it is called" * 100)
    with pytest.raises(CliError, match="cannot be read as a trace database"):
        compute_replay(parse_options(tmp_path, None, None, None, 10), NOW)
