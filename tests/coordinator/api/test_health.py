"""Tests the health routes of a running coordinator with real heartbeats, requests and database."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeOllama
from herd import __version__
from herd.core.state.fleet import Pressure
from herd.dashboard.pages.health import Health

HEALTHY = Machine(more={"agent_version": __version__, "os": "linux"})


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        running_fleet({"alpha": one, "beta": two}, {"alpha": HEALTHY, "beta": HEALTHY}) as running,
    ):
        yield running


def examine(fleet: Fleet) -> Health:
    """The current health, without the cached result."""
    fleet.on_loop(lambda: setattr(fleet.coordinator.health, "_latest", None))
    return msgspec.convert(fleet.get("/dashboard/api/health"), Health)


def post(fleet: Fleet, body: object) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", "/dashboard/api/health/snooze", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_a_healthy_fleet_has_its_passed_checks(fleet: Fleet) -> None:
    health = examine(fleet)
    # fleets of tests are open
    assert [finding.check for finding in health.findings] == ["open_fleet"]
    assert len(health.passed) >= 18 and health.score.value == 90


def test_the_versioned_path_answers_the_same(fleet: Fleet) -> None:
    assert fleet.get("/dashboard/api/health") == fleet.get("/dashboard/api/v1/health")


def test_a_finding_appears_with_memory_pressure_and_disappears_with_it(fleet: Fleet) -> None:
    fleet.machines["alpha"] = Machine(pressure=Pressure.CRITICAL, more=HEALTHY.more)
    fleet.beat()
    first, again = examine(fleet), examine(fleet)
    [finding] = [one for one in first.findings if one.check == "memory_pressure"]
    assert finding.nodes == ("alpha",) and finding.fix.commands[0].os == "linux"
    assert [one.since for one in again.findings if one.check == "memory_pressure"] == [finding.since]
    fleet.machines["alpha"] = HEALTHY
    fleet.beat()
    assert "memory_pressure" not in {one.check for one in examine(fleet).findings}


def test_checks_read_the_traces_of_real_requests(fleet: Fleet) -> None:
    for _ in range(6):
        fleet.ask(
            "POST",
            "/api/chat",
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": False}).encode(),
        )
    fleet.settle()
    fleet.coordinator.store.flush()
    # real rows must not cause an error or another finding
    assert {one.check for one in examine(fleet).findings} <= {"open_fleet", "cold_loads"}


def test_a_wrong_clock_is_found(fleet: Fleet) -> None:
    def wrong() -> None:
        node = fleet.coordinator.driver.fleet.node("alpha")  # type: ignore[arg-type]
        assert node is not None and node.report.clock_s is not None
        object.__setattr__(node.report, "clock_s", node.report.clock_s + 1000.0)

    fleet.on_loop(wrong)
    [finding] = [one for one in examine(fleet).findings if one.check == "clock_skew"]
    assert finding.nodes == ("alpha",) and finding.evidence[0].value == "17 min ahead"


def test_checks_run_without_a_readable_database(fleet: Fleet) -> None:
    fleet.on_loop(lambda: setattr(fleet.coordinator.store.reader, "path", fleet.data_dir / "nothing" / "latency.db"))
    assert examine(fleet).passed


def test_samples_are_bounded_and_deleted_with_their_node(fleet: Fleet) -> None:
    def sampled() -> tuple[int, list[str]]:
        watch = fleet.coordinator.health
        for _ in range(300):
            watch.sample()
        most = max(len(past) for past in watch._samples_of.values())
        fleet.coordinator.driver.fleet.forget("beta")  # type: ignore[arg-type]
        watch.sample()
        return most, sorted(watch._samples_of)

    assert fleet.on_loop(sampled) == (240, ["alpha"])


def test_a_finding_is_snoozed_with_a_reason_and_shown_again(fleet: Fleet) -> None:
    status, answer = post(fleet, {"finding_id": "open_fleet", "hours": 2, "reason": "at home"})
    assert status == 200 and answer["until"] > 0
    [finding] = examine(fleet).findings
    assert finding.snoozed_until == answer["until"] and finding.snooze_reason == "at home"
    assert post(fleet, {"finding_id": "open_fleet", "hours": 0})[1]["until"] is None
    assert examine(fleet).findings[0].snoozed_until is None


@pytest.mark.parametrize(
    "body",
    [
        {"finding_id": ""},
        {"finding_id": "a", "hours": -1},
        {"finding_id": "a", "hours": 1e9},
        {},
        [],
        {"finding_id": "a", "reason": "x" * 201},
    ],
)
def test_an_invalid_snooze_is_refused(fleet: Fleet, body: object) -> None:
    assert post(fleet, body)[0] == 400


def test_a_new_fleet_has_uptime_bars_and_an_unknown_range_is_refused(fleet: Fleet) -> None:
    assert fleet.get("/dashboard/api/strips?range=7d")["range"] == "7d"
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", "/dashboard/api/strips?range=year")
    assert connection.getresponse().status == 400
    connection.close()


def test_the_checks_also_run_without_a_request(fleet: Fleet) -> None:
    async def ticked() -> bool:
        watch = fleet.coordinator.health
        for _ in range(4):
            assert watch._timer is not None
            watch._timer.cancel()
            watch._tick()
        assert watch._examining is not None
        await asyncio.wait_for(watch._examining, 10)
        return watch._latest is not None

    assert fleet.thread.run(ticked())
