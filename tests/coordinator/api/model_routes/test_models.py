"""Tests downloading, copying, deleting, loading and pinning models on engines that behave like Ollama."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from fakes.faults import Cut, How
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.request_context import FakeSettings
from fakes.ollama.server import FakeModel, FakeOllama
from herd.coordinator.models.pinned_models import PinSettings
from herd.coordinator.models.transfers import TransferSettings
from herd.core.state.fleet import canonical

NEW = FakeModel(name="new", size_bytes=4_000_000_000)


@contextmanager
def two(settings: Any = None) -> Iterator[tuple[Fleet, FakeOllama, FakeOllama]]:
    registry = FakeSettings(registry={"new:latest": NEW})
    with (
        FakeOllama(["m"], registry) as one,
        FakeOllama(["m", "n"], registry) as two_,
        running_fleet({"one": one, "two": two_}, settings=settings) as fleet,
    ):
        yield fleet, one, two_


def call(fleet: Fleet, method: str, path: str, body: object = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request(
            method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if data else None


def names(fleet: Fleet) -> list[str]:
    return sorted(entry["name"] for entry in call(fleet, "GET", "/api/tags")[1]["models"])


def test_a_pull_reports_progress_in_ollamas_format_with_node_and_source() -> None:
    with two() as (fleet, one, _):
        lines = fleet.lines("POST", "/api/pull", {"model": "new", "node_id": "one"})
        assert lines[-1] == {"status": "success", "node": "one", "source": "internet"}
        assert "new:latest" in one.models
        (job,) = call(fleet, "GET", "/fleet/pulls")[1]["jobs"]
        assert (job["state"], job["done"], job["total"]) == ("done", NEW.size_bytes, NEW.size_bytes)
        assert (
            call(fleet, "POST", "/api/pull", {"name": "new", "node_id": "two", "stream": False})[1]["status"]
            == "success"
        )
        assert fleet.coordinator.store.flush()
        assert [entry["what"] for entry in call(fleet, "GET", "/fleet/audit")[1]["entries"]] == ["pull", "pull"]


def test_a_model_that_the_registry_lacks_is_an_error_and_leaves_nothing() -> None:
    with two() as (fleet, one, _):
        last = fleet.lines("POST", "/api/pull", {"model": "nowhere", "node_id": "one"})[-1]
        assert "file does not exist" in last["error"]
        status, result = call(fleet, "POST", "/api/pull", {"model": "nowhere", "node_id": "one", "stream": False})
        assert status == 500 and "file does not exist" in result["error"] and "nowhere:latest" not in one.models


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "evil.host/a/x"}, 403, "registry_not_allowed"),
        ({"model": "evil.host/x"}, 400, "invalid_model_name"),
        ({"model": "../../etc/passwd"}, 400, "invalid_model_name"),
        ({}, 400, "invalid_request"),
        ({"model": "new", "node_id": "nobody"}, 404, "no_such_node"),
        ({"model": "new", "lan_only": True}, 404, "no_source"),
    ],
)
def test_an_invalid_pull_is_refused_before_an_engine_is_called(body: dict[str, object], status: int, code: str) -> None:
    with two() as (fleet, one, other):
        found, result = call(fleet, "POST", "/api/pull", body)
        assert (found, result["code"]) == (status, code)
        assert not any(seen.path == "/api/pull" for seen in (*one.requests, *other.requests))


def test_an_interrupted_pull_can_be_resumed() -> None:
    with two() as (fleet, one, _):
        one.fail(Cut(how=How.FIN, after_bytes=300, times=1))
        last = fleet.lines("POST", "/api/pull", {"model": "new", "node_id": "one"})[-1]
        assert last["error"]
        one.heal()
        assert fleet.lines("POST", "/api/pull", {"model": "new", "node_id": "one"})[-1]["status"] == "success"


def test_only_configured_registries_are_used() -> None:
    settings = replace(settings_for_tests(), transfers=TransferSettings(registries="my.registry"))
    with two(settings) as (fleet, *_):
        assert call(fleet, "POST", "/api/pull", {"model": "new"})[0] == 403
        assert "error" in fleet.lines("POST", "/api/pull", {"model": "my.registry/a/b", "node_id": "one"})[-1]


def test_a_deletion_with_a_confirmation_needs_the_node_if_several_have_the_model() -> None:
    with two() as (fleet, one, other):
        confirmed = {"model": "m", "confirm": "m"}
        assert call(fleet, "DELETE", "/api/delete", confirmed)[1]["code"] == "node_required"
        wrong = confirmed | {"node_id": "one", "confirm": "n"}
        assert call(fleet, "DELETE", "/api/delete", wrong)[1]["code"] == "confirmation_required"
        status, result = call(fleet, "POST", "/dashboard/api/delete", {"model": "m", "node_id": "one"})
        assert (status, result["code"]) == (400, "confirmation_required") and "herd rm m" in result["error"]
        assert "m:latest" in one.models
        status, result = call(fleet, "DELETE", "/api/delete", confirmed | {"node_id": "one"})
        assert (
            status == 200 and result["nodes"] == ["one"] and "m:latest" not in one.models and "m:latest" in other.models
        )
        assert call(fleet, "POST", "/dashboard/api/delete", {"model": "n", "node_id": "one", "confirm": "n"})[0] == 404
        assert call(fleet, "POST", "/dashboard/api/delete", {"model": "n", "node_id": "*", "confirm": "n"})[1][
            "nodes"
        ] == ["two"]


@pytest.mark.parametrize("field", ["model", "name"])
def test_a_deletion_by_a_client_of_ollama_is_for_every_node_and_audited(field: str) -> None:
    with two() as (fleet, one, other):
        assert call(fleet, "DELETE", "/api/delete", {field: "m"}) == (200, None)
        assert "m:latest" not in one.models and "m:latest" not in other.models
        assert names(fleet) == ["n:latest"], "before any heartbeat"
        assert fleet.coordinator.store.flush()
        targets = [entry["about"] for entry in call(fleet, "GET", "/fleet/audit")[1]["entries"]]
        assert sorted(targets) == ["m on one", "m on two"]


def test_a_deletion_that_fails_on_one_node_says_where() -> None:
    with two() as (fleet, one, other):
        other.fail(Cut(how=How.RESET, path="/api/delete"))
        status, result = call(fleet, "DELETE", "/api/delete", {"model": "m"})
        other.heal()
        assert status == 502 and result["error"].startswith("m was deleted on one, but not on two: ")
        assert "m:latest" not in one.models and names(fleet) == ["m:latest", "n:latest"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/delete", {"model": "mm"}),
        ("POST", "/api/copy", {"source": "mm", "destination": "x"}),
        ("POST", "/api/show", {"model": "mm"}),
        ("POST", "/api/generate", {"model": "mm", "keep_alive": 0}),
        ("POST", "/api/generate", {"model": "mm", "prompt": "x"}),
        ("POST", "/fleet/unload", {"model": "mm"}),
    ],
)
def test_an_unknown_name_is_a_404_with_the_nearest_names(method: str, path: str, body: object) -> None:
    with two() as (fleet, *_):
        status, result = call(fleet, method, path, body)
        assert status == 404
        assert result["error"].startswith("model 'mm' not found on any node; the fleet has m")


def test_lists_follow_copies_and_deletions_before_any_heartbeat() -> None:
    with two() as (fleet, *_):
        for source, to in (("m", "a"), ("a", "b")):
            assert call(fleet, "POST", "/api/copy", {"source": source, "destination": to}) == (200, None)
        assert names(fleet) == ["a:latest", "b:latest", "m:latest", "n:latest"]
        assert {entry["id"] for entry in call(fleet, "GET", "/v1/models")[1]["data"]} >= {"a:latest", "b:latest"}
        assert call(fleet, "POST", "/api/show", {"model": "b"})[0] == 200
        answer = call(fleet, "POST", "/api/generate", {"model": "b", "prompt": "x", "stream": False})
        assert answer[0] == 200
        assert call(fleet, "DELETE", "/api/delete", {"model": "a"})[0] == 200
        assert names(fleet) == ["b:latest", "m:latest", "n:latest"]
        assert call(fleet, "POST", "/api/show", {"model": "a"})[0] == 404


def test_a_pulled_model_is_listed_and_can_be_asked_before_any_heartbeat() -> None:
    with two() as (fleet, *_):
        assert fleet.lines("POST", "/api/pull", {"model": "new", "node_id": "one"})[-1]["status"] == "success"
        (entry,) = [entry for entry in call(fleet, "GET", "/api/tags")[1]["models"] if entry["name"] == "new:latest"]
        assert (entry["size"], entry["details"]["fleet_nodes"]) == (NEW.size_bytes, ["one"])
        assert call(fleet, "POST", "/api/generate", {"model": "new", "prompt": "x", "stream": False})[0] == 200


def test_a_pull_of_a_model_that_every_node_has_is_a_success_with_ollamas_lines() -> None:
    with two() as (fleet, one, other):
        call(fleet, "POST", "/api/pull", {"model": "new", "node_id": "one", "stream": False})
        call(fleet, "POST", "/api/pull", {"model": "new", "node_id": "two", "stream": False})
        lines = fleet.lines("POST", "/api/pull", {"model": "new"})
        statuses = [line["status"] for line in lines]
        assert [status for n, status in enumerate(statuses) if status not in statuses[:n]] == [
            "pulling manifest",
            f"pulling {NEW.blob_digest[:12]}",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        assert len([seen for seen in (*one.requests, *other.requests) if seen.path == "/api/pull"]) == 3


def test_a_pull_of_a_stale_model_refreshes_every_node_that_has_it() -> None:
    newer = replace(NEW, blob="c" * 64)
    with (
        FakeOllama([NEW], FakeSettings(registry={"new:latest": newer})) as one,
        FakeOllama([NEW], FakeSettings(registry={"new:latest": newer})) as other,
        running_fleet({"one": one, "two": other}) as fleet,
    ):
        assert fleet.lines("POST", "/api/pull", {"model": "new"})[-1]["status"] == "success"
        digest = one.models["new:latest"].digest
        other.wait(lambda: other.models["new:latest"].digest == digest, "the same version on the other node")


def test_a_second_pull_of_the_same_model_joins_the_first() -> None:
    with two() as (fleet, one, other):
        one.fail(Cut(how=How.STALL, after_bytes=300))
        other.fail(Cut(how=How.STALL, after_bytes=300))
        body = json.dumps({"model": "new"})
        connections = [http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30) for _ in range(2)]
        with closing(connections[0]), closing(connections[1]):
            responses = []
            for connection in connections:
                connection.request("POST", "/api/pull", body, {"Content-Type": "application/json"})
                responses.append(connection.getresponse())
            firsts = [json.loads(response.readline()) for response in responses]
            assert firsts[0]["node"] == firsts[1]["node"]
            assert len(call(fleet, "GET", "/fleet/pulls")[1]["jobs"]) == 1


def test_a_copy_gives_a_second_name_on_every_node_that_has_the_model() -> None:
    with two() as (fleet, one, other):
        assert call(fleet, "POST", "/api/copy", {"source": "m", "destination": "mine"})[0] == 200
        assert "mine:latest" in one.models and "mine:latest" in other.models


def test_models_are_loaded_and_unloaded() -> None:
    with two() as (fleet, one, other):
        assert call(fleet, "POST", "/fleet/load", {"model": "n"})[1]["nodes"] == ["two"]
        assert [runner.name for runner in other.scheduler.listed()] == ["n:latest"]
        fleet.beat()
        assert [entry["name"] for entry in call(fleet, "GET", "/api/ps")[1]["models"]] == ["n:latest"]
        assert call(fleet, "POST", "/fleet/unload", {"model": "n"})[1]["nodes"] == ["two"]
        assert call(fleet, "GET", "/api/ps")[1]["models"] == [], "before any heartbeat"
        assert not other.scheduler.listed() and not one.scheduler.listed()


def test_a_pinned_model_is_loaded_and_the_pin_survives_a_restart(tmp_path: Any) -> None:
    with FakeOllama(["m"]) as one:
        with running_fleet({"one": one}, data_dir=tmp_path) as fleet:
            assert call(fleet, "POST", "/fleet/pin", {"model": "m"})[0] == 200
            one.wait(lambda: bool(one.scheduler.listed()), "a loaded model")
            fleet.beat()
            assert call(fleet, "GET", "/fleet/pin")[1] == {
                "pins": [{"model": "m:latest", "node_id": "", "is_loaded": True}]
            }
        with running_fleet({"one": one}, data_dir=tmp_path) as fleet:
            assert call(fleet, "GET", "/dashboard/api/pinned-models")[1]["pins"][0]["model"] == "m:latest"
            assert call(fleet, "DELETE", "/fleet/pin/m")[0] == 200
            assert call(fleet, "DELETE", "/fleet/pin/m")[0] == 404


def test_an_unknown_model_or_node_cannot_be_pinned() -> None:
    with two() as (fleet, *_):
        assert call(fleet, "POST", "/fleet/pin", {"model": "nothing"})[0] == 404
        assert call(fleet, "POST", "/fleet/pin", {"model": "n", "node_id": "one"})[0] == 404


def test_pins_of_the_environment_are_loaded_after_a_heartbeat() -> None:
    settings = replace(settings_for_tests(), pinned_models=PinSettings(models="n@two"))
    with two(settings) as (fleet, _, other):
        fleet.beat("two")
        other.wait(lambda: bool(other.scheduler.listed()), "a loaded model")
        assert call(fleet, "DELETE", "/fleet/pin/n")[0] == 404, "a pin of the environment cannot be removed here"


def test_model_management_lists_the_models_of_each_node() -> None:
    with two() as (fleet, *_):
        result = call(fleet, "GET", "/dashboard/api/model-management")[1]
        assert {node["node_id"]: [model["name"] for model in node["models"]] for node in result["nodes"]} == {
            "one": ["m:latest"],
            "two": ["m:latest", "n:latest"],
        }


def test_an_update_downloads_once_and_copies_to_the_other_nodes() -> None:
    registry = FakeSettings(registry={"m:latest": replace(NEW, name="m", blob="c" * 64)})
    with (
        FakeOllama(["m"], registry) as one,
        FakeOllama(["m"]) as other,
        running_fleet({"one": one, "two": other}) as fleet,
    ):
        fleet.libraries |= {"one": "http://127.0.0.1:9", "two": "http://127.0.0.1:9"}
        fleet.beat()
        assert call(fleet, "POST", "/fleet/update", {"model": "m", "node_id": "one"})[0] == 202
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            fleet.beat()
            asked = [json.loads(seen.body)["model"] for seen in other.requests if seen.path == "/api/pull"]
            if asked:
                break
        assert asked == [f"http://127.0.0.1:9/herd/{one.models[canonical('m')].digest}:latest"]
