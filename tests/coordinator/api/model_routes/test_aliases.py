"""Aliases are listed, defined and removed over the API, apply to the next request, and survive a restart."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fakes.dashboard.settings_store import a_settings_store
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama

PATH = "/dashboard/api/aliases"
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    environ = {"FLEET_ANTHROPIC_MODEL_MAP": '{"claude-opus-4-7": "gone"}'}
    store = a_settings_store(tmp_path, environ)
    with (
        FakeOllama(["m"]) as node,
        running_fleet({"alpha": node}, data_dir=tmp_path, settings_store=store, settings=None) as running,
    ):
        running.on_loop(running.coordinator._apply_settings)
        yield running


def call(fleet: Fleet, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def listed(fleet: Fleet) -> dict[str, Any]:
    return {one["name"]: one for one in fleet.get(PATH)["aliases"]}


def test_a_new_alias_answers_the_next_request_and_is_in_the_lists(fleet: Fleet) -> None:
    status, answer = call(fleet, "POST", PATH, {"name": "fast", "models": ["gone", "m"]})
    defined = {"name": "fast", "models": ["gone", "m"], "live": ["m"], "source": "alias"}
    assert status == 200 and defined in answer["aliases"]
    status, chat = call(fleet, "POST", "/api/chat", {"model": "fast", "messages": HI, "stream": False})
    assert (status, chat["model"]) == (200, "fast")
    assert "fast:latest" in {entry["name"] for entry in fleet.get("/api/tags")["models"]}


def test_a_second_definition_replaces_the_first_and_a_removal_ends_it(fleet: Fleet, tmp_path: Path) -> None:
    call(fleet, "POST", PATH, {"name": "other-*", "models": ["m"]})
    for models in (["gone"], ["m"]):
        call(fleet, "POST", PATH, {"name": "fast", "models": models})
    assert listed(fleet)["fast"]["models"] == ["m"] and "other-*" in listed(fleet)
    assert a_settings_store(tmp_path, {}).aliases().table == ("other-*=m", "fast=m"), "the next start reads it"
    assert call(fleet, "DELETE", PATH, {"name": "other-*"})[0] == 200
    assert call(fleet, "POST", "/api/chat", {"model": "other-1", "messages": HI, "stream": False})[0] == 404
    assert a_settings_store(tmp_path, {}).aliases().table == ("fast=m",)


def test_the_list_shows_the_map_and_which_models_answer_names_of_cloud_models(fleet: Fleet) -> None:
    assert listed(fleet)["claude-opus-4-7"] == {
        "name": "claude-opus-4-7",
        "models": ["gone"],
        "live": [],
        "source": "alias",
    }
    assert listed(fleet)["claude-haiku-*"] == {"name": "claude-haiku-*", "models": [], "live": ["m"], "source": "tier"}


def test_an_alias_without_a_model_is_a_health_finding(fleet: Fleet) -> None:
    found = fleet.get("/dashboard/api/health")
    assert "alias_target_missing" in json.dumps(found) and "claude-opus-4-7" in json.dumps(found)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "models": ["m"]},
        {"name": "a", "models": []},
        {"name": "a,b", "models": ["m"]},
        {"name": "a", "models": ["m|n"]},
        {"name": "a", "models": ["m"] * 17},
        {"name": 'a"b', "models": ["m"]},
    ],
)
def test_an_invalid_definition_changes_nothing(fleet: Fleet, body: dict[str, Any]) -> None:
    before = listed(fleet)
    assert call(fleet, "POST", PATH, body)[0] == 400
    assert listed(fleet) == before


def test_an_unknown_alias_cannot_be_removed(fleet: Fleet) -> None:
    assert call(fleet, "DELETE", PATH, {"name": "nobody"})[0] == 404
    assert call(fleet, "DELETE", PATH, {"name": "claude-opus-4-7"})[0] == 404


def test_definitions_are_in_the_history_of_settings(fleet: Fleet) -> None:
    call(fleet, "POST", PATH, {"name": "fast", "models": ["m"]})
    assert fleet.get("/dashboard/api/settings/history")["changes"][0]["name"] == "FLEET_ALIASES"
