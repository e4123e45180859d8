"""Scripts for ollama-herd 0.11.4 find its routes, the keys of its answers, its headers and its refusals."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from fakes.fleet import Fleet, Machine, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeModel, FakeOllama

HI = [{"role": "user", "content": "Hi"}]
GB = 10**9


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    models = [
        FakeModel(name="m"),
        FakeModel(name="embed", capabilities=("embedding",)),
        FakeModel(name="half", size_bytes=12 * GB),
        FakeModel(name="other-half", size_bytes=13 * GB),
        FakeModel(name="huge", size_bytes=60 * GB),
    ]
    with (
        FakeOllama(models) as node,
        running_fleet({"alpha": node}, {"alpha": Machine(memory_gb=32.0)}, settings_of_steady_nodes()) as running,
    ):
        yield running


def call(fleet: Fleet, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
        response = connection.getresponse()
        data = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.loads(data) if data.startswith((b"{", b"[")) else data


def test_queue_has_the_keys_of_ollama_herd_beside_ours(fleet: Fleet) -> None:
    call(fleet, "POST", "/api/chat", {"model": "m", "messages": HI, "stream": False})
    call(fleet, "POST", "/api/chat", {"model": "m", "messages": HI, "stream": False})
    fleet.settle()
    answer = fleet.get("/fleet/queue")
    assert {"requests", "waiting"} <= set(answer)
    counts = {key: answer[key] for key in ("queue_depth", "pending", "in_flight", "failed", "nodes_online")}
    assert counts == {"queue_depth": 0, "pending": 0, "in_flight": 0, "failed": 0, "nodes_online": 1}
    assert answer["completed"] >= 2 and answer["estimated_wait_ms"] is None and answer["timestamp"] > 1.7e9
    queue = answer["queues"]["alpha:m:latest"]
    assert (queue["node_id"], queue["model"], queue["backend"]) == ("alpha", "m:latest", "ollama")
    assert (queue["pending"], queue["in_flight"], queue["concurrency"]) == (0, 0, 1)
    assert queue["completed"] == queue["stats_samples"] >= 2 and queue["avg_completion_tokens"] > 0


def test_limits_have_the_keys_of_ollama_herd_beside_ours(fleet: Fleet) -> None:
    answer = fleet.get("/fleet/limits")
    assert answer["max_retries"] == answer["retry.retries_max"] == 2 and answer["timestamp"] > 1.7e9
    [node] = answer["nodes"]
    assert (node["node_id"], node["status"]) == ("alpha", "online")
    assert node["free_slots"] == max(0, node["hot_model_cap"] - node["models_loaded"])


def test_page_of_tags_is_the_page_of_apps(fleet: Fleet) -> None:
    status, headers, _ = call(fleet, "GET", "/dashboard/tags")
    assert (status, headers["location"]) == (307, "/dashboard/apps")


BENCHMARK = {
    "run_id": "bench-1",
    "timestamp": 1795811643.5,
    "duration_s": 12.5,
    "total_requests": 20,
    "total_failures": 1,
    "total_prompt_tokens": 4000,
    "total_completion_tokens": 2000,
    "latency_p50_ms": 900.5,
    "per_model_results": {"m": {"tok_per_sec": 50}},
    "fleet_snapshot": {"nodes": 1},
    "added_later": [1],
}


def test_benchmarks_of_its_script_are_stored_and_listed(fleet: Fleet) -> None:
    for requests in (10, 20):
        status, _, answer = call(fleet, "POST", "/dashboard/api/benchmarks", {**BENCHMARK, "total_requests": requests})
        assert (status, answer) == (200, {"status": "saved", "run_id": "bench-1"})
    fleet.coordinator.store.flush()
    [run] = [one for one in fleet.get("/dashboard/api/benchmarks")["runs"] if one["run_id"] == "bench-1"]
    assert (run["requests"], run["failures"], run["duration_s"], run["timestamp"]) == (20, 1, 12.5, 1795811643.5)


@pytest.mark.parametrize("changes", [{"run_id": ""}, {"run_id": "r" * 101}, {"duration_s": None}, {"duration_s": "x"}])
def test_invalid_benchmarks_are_refused(fleet: Fleet, changes: dict[str, Any]) -> None:
    assert call(fleet, "POST", "/dashboard/api/benchmarks", {**BENCHMARK, **changes})[0] == 400


def test_probe_of_claude_code_is_answered(fleet: Fleet) -> None:
    status, _, answer = call(fleet, "GET", "/v1/messages")
    assert (status, answer["ok"], answer["endpoint"]) == (200, True, "/v1/messages")
    assert call(fleet, "GET", "/v1/messages/count_tokens")[0] == 405


def test_its_second_address_for_embeddings_is_served(fleet: Fleet) -> None:
    status, _, answer = call(fleet, "POST", "/api/embed-text", {"model": "embed", "input": ["a", "b"]})
    assert status == 200 and len(answer["embeddings"]) == 2


def test_a_pin_that_cannot_fit_is_refused_unless_it_is_forced(fleet: Fleet) -> None:
    status, _, answer = call(fleet, "POST", "/fleet/pin", {"model": "huge"})
    assert status == 409 and answer["code"] == "pin_cannot_fit"
    assert "huge:latest needs about 72.0 GB, and alpha has 25.6 GB" in answer["error"]
    assert call(fleet, "POST", "/fleet/pin", {"model": "half", "node_id": "alpha"})[0] == 200
    second = {"model": "other-half", "node_id": "alpha"}
    assert call(fleet, "POST", "/fleet/pin", second)[0] == 409, "the pinned models need memory at the same time"
    assert call(fleet, "POST", "/fleet/pin", {**second, "force": True})[0] == 200
    assert call(fleet, "POST", "/fleet/pin", second)[0] == 200, "it is pinned already"
