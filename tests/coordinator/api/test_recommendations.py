"""Tests the recommendations of a running coordinator whose database has a generated week."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import msgspec
import pytest

from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeOllama
from herd.coordinator.storage.rollups.tables import ALL, PAIR
from herd.core.state.fleet import GB, Disk
from herd.dashboard.pages.recommendations import Recommendations
from terminal import herd

ROOMY = Machine(more={"disk": Disk(500 * GB, 100 * GB, 400 * GB), "memory_bandwidth_gbps": 100.0})


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["n"]) as two,
        running_fleet({"alpha": one, "beta": two}, {"alpha": ROOMY, "beta": ROOMY}) as running,
    ):
        yield running


def seed(
    fleet: Fleet, requests: int, cold_loads: int = 0, load_ms: float = 0.0, tokens: int = 2_000, days_ago: float = 1.0
) -> None:
    """Writes the sums of one hour as the coordinator writes them."""
    at = int(time.time() - days_ago * 86400) // 3600 * 3600
    with sqlite3.connect(fleet.coordinator.store.path, timeout=10) as database:
        database.execute("INSERT OR IGNORE INTO sum_subjects VALUES (77, ?, 'alpha', 'm:latest', '')", (PAIR.number,))
        for kind, subject in ((PAIR, 77), (ALL, ALL.number)):
            for size in kind.sizes:
                row = {
                    "kind": kind.number,
                    "size": size,
                    "subject": subject,
                    "bucket": at // size * size,
                    "requests": requests,
                    "completed": requests,
                    "prompt_tokens": 10 * requests,
                    "completion_tokens": tokens * requests,
                    "cold_loads": cold_loads,
                    "load_ms": load_ms,
                    "last_at": at + 60.0,
                }
                database.execute(
                    f"INSERT INTO sums ({', '.join(row)}) VALUES ({', '.join('?' for _ in row)})", tuple(row.values())
                )
    database.close()


def asked(fleet: Fleet) -> Recommendations:
    return msgspec.convert(fleet.get("/dashboard/api/recommendations"), Recommendations)


def test_without_usage_the_summary_says_where_recommendations_come_from(fleet: Fleet) -> None:
    found = asked(fleet)
    assert found.since_at is None and found.recommendations == () and found.summary.startswith("No requests yet")
    assert {node.node_id for node in found.nodes} == {"alpha", "beta"}


def test_a_busy_model_should_have_a_second_copy_with_the_request_to_send(fleet: Fleet) -> None:
    seed(fleet, 3000)
    [pull] = [one for one in asked(fleet).recommendations if one.kind == "pull"]
    assert (pull.node_id, pull.model, pull.rule) == ("beta", "m:latest", "second_home")
    assert pull.do is not None and (pull.do.path, pull.do.body) == (
        "/dashboard/api/pull",
        {"model": "m:latest", "node_id": "beta"},
    )
    assert "served all 3,000 requests" in pull.reason and pull.gain.seconds > pull.gain.plus_minus
    [change] = [node for node in asked(fleet).nodes if node.node_id == "beta"]
    assert change.disk_bytes is not None and change.disk_bytes.after - change.disk_bytes.before == pull.cost.bytes


def test_a_model_with_many_cold_loads_should_be_pinned(fleet: Fleet) -> None:
    seed(fleet, 100, cold_loads=40, load_ms=400_000.0, tokens=10)
    [pin] = [one for one in asked(fleet).recommendations if one.kind == "pin"]
    assert (pin.node_id, pin.model, pin.gain.seconds) == ("alpha", "m:latest", 400.0)


def test_a_model_unused_for_a_month_should_be_deleted(fleet: Fleet) -> None:
    seed(fleet, 10, days_ago=40)
    found = asked(fleet)
    assert {(one.kind, one.node_id, one.model) for one in found.recommendations} == {
        ("delete", "alpha", "m:latest"),
        ("delete", "beta", "n:latest"),
    }
    assert "unused models take" in found.summary


def test_an_offline_node_has_no_recommendations(fleet: Fleet) -> None:
    seed(fleet, 3000)

    def away() -> None:
        driver = fleet.coordinator.driver
        node = driver.fleet.nodes["beta"]  # type: ignore[index]
        driver.dispatcher._handle_lost_node(node, driver.now(), [])

    fleet.on_loop(away)
    assert {one.node_id for one in asked(fleet).recommendations} <= {"alpha"}


def test_the_terminal_shows_the_same_with_the_command(fleet: Fleet) -> None:
    seed(fleet, 3000)
    done = herd("recommend", url=fleet.url)
    assert done.status == 0 and done.lines[0] == "1 change would save time."
    assert "          ollama pull m:latest  # on beta" in done.lines
    assert any("(rule second_home)" in line for line in done.lines)
