"""Tests the overview, traces, request details and usage over real sockets."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.dashboard.pages.overview import Overview
from herd.dashboard.requests import RequestDetails, Traces

CHAT = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": False, "metadata": {"tags": ["aider"]}}
).encode()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as one, FakeOllama(["other"]) as two, running_fleet({"alpha": one, "beta": two}) as running:
        for _ in range(3):
            running.ask("POST", "/api/chat", CHAT)
        running.settle()
        assert running.coordinator.store.flush()
        yield running


def on_disk(fleet: Fleet, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(fleet.data_dir / "latency.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def raw(fleet: Fleet, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_the_overview_has_nodes_numbers_and_recent_requests(fleet: Fleet) -> None:
    result = msgspec.convert(fleet.get("/dashboard/api/overview"), Overview)
    assert [(model_info.node_id, model_info.state) for model_info in result.nodes] == [
        ("alpha", "online"),
        ("beta", "online"),
    ]
    assert result.verdict.level == "good" and "2 of 2 nodes online" in result.verdict.sentence
    [(requests, failures)] = on_disk(
        fleet, "SELECT SUM(status <> 'retried'), SUM(status LIKE 'failed%') FROM request_traces"
    )
    assert (result.numbers.requests_today, result.numbers.failures_today) == (requests, failures) and requests >= 3
    [(tokens,)] = on_disk(fleet, "SELECT SUM(completion_tokens) FROM request_traces")
    assert result.numbers.tokens_per_s == pytest.approx(tokens / 60.0, abs=0.06)
    ttfts = sorted(row[0] for row in on_disk(fleet, "SELECT time_to_first_token_ms FROM request_traces"))
    assert result.numbers.ttft_p50_ms == pytest.approx(ttfts[(len(ttfts) - 1) // 2], abs=0.1)
    assert {one.why for one in result.latest} == {"only available node"} and {one.app for one in result.latest} == {
        "aider"
    }
    assert [step.done for step in result.first_run] == [True, True, True]
    assert (result.queue, result.running, result.numbers.running, result.numbers.waiting) == ((), (), 0, 0)


def test_todays_numbers_are_the_same_before_and_after_the_roll_up(fleet: Fleet) -> None:
    before = fleet.get("/dashboard/api/overview")["numbers"]["requests_today"]
    fleet.ask("POST", "/api/chat", CHAT)
    fleet.settle()
    assert fleet.coordinator.store.flush()
    assert fleet.get("/dashboard/api/overview")["numbers"]["requests_today"] == before + 1


def test_traces_are_paged_and_filtered(fleet: Fleet) -> None:
    first = msgspec.convert(fleet.get("/dashboard/api/traces?limit=2"), Traces)
    assert len(first.traces) == 2 and first.next_before_id is not None
    rest = msgspec.convert(fleet.get(f"/dashboard/api/traces?limit=50&before_id={first.next_before_id}"), Traces)
    assert rest.next_before_id is None
    ids = [row["id"] for row in (*first.traces, *rest.traces)]
    assert ids == [row[0] for row in on_disk(fleet, "SELECT id FROM request_traces ORDER BY id DESC")]
    for narrowed in ("node_id=beta", "status=failed", "tag=nobody", "model=other", "until=5"):
        assert fleet.get(f"/dashboard/api/traces?{narrowed}")["traces"] == []
    assert len(fleet.get("/dashboard/api/traces?node_id=alpha&tag=aider&status=completed")["traces"]) == len(ids)


def test_one_request_has_all_its_details(fleet: Fleet) -> None:
    request_id = fleet.get("/dashboard/api/traces?limit=1")["traces"][0]["request_id"]
    result = msgspec.convert(fleet.get(f"/dashboard/api/requests/{request_id}"), RequestDetails)
    assert result.sentence.startswith("m:latest for aider: completed on alpha, time to first token ")
    assert sum(span.ms for lane in result.lanes for span in lane.spans) == pytest.approx(result.total_ms, abs=1.0)
    [choice] = result.choices
    assert [one.node_id for one in choice.candidates] == ["alpha"] and len(choice.candidates[0].signals) == 7
    assert choice.otherwise == ("No other node could serve the request.",)
    assert raw(fleet, "/dashboard/api/requests/nobody")[0] == 404


@pytest.mark.parametrize("path", ["overview", "traces", "usage", "latencies"])
def test_every_route_has_a_versioned_path(fleet: Fleet, path: str) -> None:
    status, body = raw(fleet, f"/dashboard/api/v1/{path}")
    assert status == 200 and set(json.loads(body)) == set(fleet.get(f"/dashboard/api/{path}"))


def test_the_versioned_path_needs_the_same_right(fleet: Fleet) -> None:
    for path in ("/dashboard/api/traces", "/dashboard/api/v1/traces"):
        connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
        connection.request("GET", path, headers={"X-Forwarded-For": "203.0.113.9"})
        assert connection.getresponse().status == 401
        connection.close()


def test_joining_and_leaving_nodes_and_their_states_are_stored(fleet: Fleet) -> None:
    fleet.on_loop(fleet.coordinator.view.store_states)
    assert fleet.coordinator.store.flush()
    kinds = dict(on_disk(fleet, "SELECT about, kind FROM fleet_events"))
    assert (kinds["alpha joined"], kinds["beta joined"]) == (
        "node_joined",
        "node_joined",
    ) and "version" in kinds.values()
    assert {
        name for (name,) in on_disk(fleet, "SELECT node_id FROM node_minutes WHERE online_s > 0 AND gone_s = 0")
    } == {"alpha", "beta"}
