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
        ({"model": "evil.host/x"}, 403, "registry_not_allowed"),
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


def test_a_deletion_needs_a_confirmation_and_the_node_if_several_have_the_model() -> None:
    with two() as (fleet, one, other):
        assert call(fleet, "DELETE", "/api/delete", {"model": "m"})[1]["code"] == "node_required"
        status, result = call(fleet, "DELETE", "/api/delete", {"model": "m", "node_id": "one"})
        assert (status, result["code"]) == (400, "confirmation_required") and "herd rm m" in result["error"]
        assert "m:latest" in one.models
        status, result = call(fleet, "DELETE", "/api/delete", {"model": "m", "node_id": "one", "confirm": "m"})
        assert (
            status == 200 and result["nodes"] == ["one"] and "m:latest" not in one.models and "m:latest" in other.models
        )
        fleet.beat()
        assert call(fleet, "POST", "/dashboard/api/delete", {"model": "n", "node_id": "one", "confirm": "n"})[0] == 404
        assert call(fleet, "POST", "/dashboard/api/delete", {"model": "n", "node_id": "*", "confirm": "n"})[1][
            "nodes"
        ] == ["two"]


def test_a_copy_gives_a_second_name_on_every_node_that_has_the_model() -> None:
    with two() as (fleet, one, other):
        assert call(fleet, "POST", "/api/copy", {"source": "m", "destination": "mine"})[0] == 200
        assert "mine:latest" in one.models and "mine:latest" in other.models


def test_models_are_loaded_and_unloaded() -> None:
    with two() as (fleet, one, other):
        assert call(fleet, "POST", "/fleet/load", {"model": "n"})[1]["nodes"] == ["two"]
        assert [runner.name for runner in other.scheduler.listed()] == ["n:latest"]
        fleet.beat()
        assert call(fleet, "POST", "/fleet/unload", {"model": "n"})[1]["nodes"] == ["two"]
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
