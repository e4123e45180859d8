"""A client that uses another name of a model gets answers with this name, in every API, from every engine."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fakes.faults import Counting, Cut, How
from fakes.fleet import Fleet, Machine, running_fleet, settings_for_tests, settings_of_steady_nodes
from fakes.llamacpp.engines import LlamaEngine
from fakes.ollama.continuing_fleet import continuing_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from herd.coordinator.proxy.auto_pull import AutoPullSettings
from herd.coordinator.proxy.relay_dependencies import RelaySettings
from herd.core.scheduling.aliases import AliasSettings

NAME = "claude-sonnet-4-5"
HI = [{"role": "user", "content": "Say hi."}]
MODEL = FakeModel(name="m", answer_tokens=12)
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": HI}),
    ("/api/generate", {"prompt": "Hi"}),
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 5}),
    ("/v1/messages", {"messages": HI, "max_tokens": 50}),
    ("/v1/responses", {"input": "Hi"}),
]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def names(self) -> set[str]:
        """Every model that the answer names."""
        lines = [line.removeprefix(b"data: ") for line in self.body.splitlines()]
        values = [json.loads(line) for line in lines if line.startswith(b"{")]
        nested = [value.get(part) or {} for value in values for part in ("response", "message")]
        return {value["model"] for value in [*values, *nested] if "model" in value}


def ask(fleet: Fleet, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, sent)
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())


@pytest.fixture(scope="module", params=["ollama", "llama.cpp"])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if request.param == "ollama":
        with (
            FakeOllama([MODEL]) as node,
            running_fleet({"alpha": node}, settings=settings_of_steady_nodes()) as running,
        ):
            yield running
        return
    with LlamaEngine() as engine, running_fleet({"alpha": engine}, settings=settings_of_steady_nodes()) as running:
        yield running


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_the_answer_has_the_requested_name_and_its_header_the_real_one(
    fleet: Fleet, path: str, body: dict[str, Any], stream: bool
) -> None:
    answer = ask(fleet, path, {"model": NAME, "stream": stream, **body})
    assert answer.status == 200, answer.body
    assert answer.names == {NAME}
    [node] = fleet.get("/fleet/status")["nodes"]
    real = node["models"][0]["name"]
    assert (answer.headers["x-fleet-requested-model"], answer.headers["x-fleet-served-model"]) == (NAME, real)
    assert answer.headers["x-fleet-fallback"] == "false"
    assert answer.headers["x-fleet-backend"] == node["engines"][0]["kind"]


@pytest.mark.parametrize("path", ["/api/show", "/v1/messages/count_tokens"])
def test_questions_about_an_alias_are_answered(fleet: Fleet, path: str) -> None:
    assert ask(fleet, path, {"model": NAME, "messages": HI}).status == 200


def test_a_trace_has_the_requested_and_the_real_name(fleet: Fleet) -> None:
    ask(fleet, "/v1/messages", {"model": NAME, "messages": HI, "max_tokens": 5})
    fleet.settle()
    fleet.coordinator.store.flush()
    row = fleet.get("/dashboard/api/traces?limit=1")["traces"][0]
    assert row["original_model"] == NAME and row["model"] != NAME and not row["fallback_used"]


@pytest.mark.parametrize(("path", "body"), [ROUTES[0], ROUTES[2], ROUTES[4]])
def test_a_continued_answer_has_the_requested_name_throughout(path: str, body: dict[str, Any]) -> None:
    sent = {"model": NAME, "stream": True, **body}
    with continuing_fleet(MODEL) as (fleet, bad):
        size = len(ask(fleet, path, sent).body)
        for cut in range(1, size, 211):
            bad.fail(Cut(how=How.RESET, after_bytes=cut, counting=Counting.BODY, times=1))
            answer = ask(fleet, path, sent)
            assert answer.names == {NAME}, f"cut after {cut} bytes"
            bad.heal()
        fleet.settle()
        fleet.coordinator.store.flush()
        assert "retried" in {row["status"] for row in fleet.get("/dashboard/api/traces")["traces"]}


def test_a_long_document_is_renamed_although_it_is_forwarded_as_it_arrives() -> None:
    settings = replace(settings_for_tests(), relay=RelaySettings(held_max_bytes=1))
    with FakeOllama([MODEL]) as node, running_fleet({"alpha": node}, settings=settings) as fleet:
        answer = ask(fleet, "/api/chat", {"model": NAME, "stream": False, "messages": HI})
        assert answer.names == {NAME} and "content-length" not in answer.headers


# --- what the owner defines ---


@pytest.fixture(scope="module")
def two_models() -> Iterator[Fleet]:
    table = ("fast=small|large", "huge=too-large|small", "dead=gone", "hidden-*=small")
    settings = replace(settings_for_tests(), aliases=AliasSettings(table), auto_pull=AutoPullSettings(is_on=True))
    models = [FakeModel(name="small"), FakeModel(name="large"), FakeModel(name="too-large", size_bytes=90 * 10**9)]
    with FakeOllama(models) as node, running_fleet({"alpha": node}, {"alpha": Machine()}, settings) as running:
        yield running


def test_a_second_model_answers_as_a_fallback_under_the_same_name(two_models: Fleet) -> None:
    answer = ask(two_models, "/api/chat", {"model": "huge", "messages": HI})
    assert answer.names == {"huge"} and answer.headers["x-fleet-served-model"] == "small:latest"
    assert answer.headers["x-fleet-fallback"] == "true"


def test_without_fallbacks_only_the_first_model_may_answer(two_models: Fleet) -> None:
    strict = {"X-Fleet-No-Fallback": "true", "X-Request-Timeout": "0.2"}
    refused = ask(two_models, "/api/chat", {"model": "huge", "messages": HI}, strict)
    assert refused.status in (503, 504), refused.body
    body = {"model": "too-large", "fallback_models": ["small"], "messages": HI}
    assert ask(two_models, "/api/chat", body, strict).status in (503, 504)
    assert ask(two_models, "/api/chat", body).headers["x-fleet-served-model"] == "small:latest"


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_the_field_of_ollama_herd_is_the_same_as_the_header_which_precedes_it(two_models: Fleet, path: str) -> None:
    body = {"model": "huge", "messages": HI, "max_tokens": 9, "input": "Hi", "fallback": False}
    soon = {"X-Request-Timeout": "0.2"}
    assert ask(two_models, path, body, soon).status in (503, 504)
    for headers, fallback in (({"X-Fleet-No-Fallback": "false"}, False), ({}, True), ({}, "other"), ({}, None)):
        answer = ask(two_models, path, {**body, "fallback": fallback}, headers)
        assert (answer.status, answer.headers["x-fleet-served-model"]) == (200, "small:latest"), answer.body


def test_fallback_models_may_be_aliases(two_models: Fleet) -> None:
    answer = ask(two_models, "/api/chat", {"model": "gone", "fallback_models": ["fast"], "messages": HI})
    assert answer.headers["x-fleet-served-model"] == "small:latest"


def test_an_alias_without_a_live_model_is_a_404_that_names_its_models(two_models: Fleet) -> None:
    answer = ask(two_models, "/v1/chat/completions", {"model": "dead", "messages": HI})
    assert answer.status == 404 and b"alias dead: gone" in answer.body


@pytest.mark.parametrize("name", ["dead", "gemini-2.5-pro", "grok-4"])
def test_aliases_and_names_of_cloud_models_are_never_downloaded(two_models: Fleet, name: str) -> None:
    """The client may download: it is on the coordinator's machine, and FLEET_AUTO_PULL is on."""
    assert ask(two_models, "/v1/chat/completions", {"model": name, "messages": HI}).status == 404
    assert not list(two_models.coordinator.transfers.table)


def test_lists_show_aliases_with_a_live_model(two_models: Fleet) -> None:
    tags = {entry["name"]: entry for entry in two_models.get("/api/tags")["models"]}
    assert {"fast:latest", "huge:latest", "small:latest"} <= set(tags)
    assert not [name for name in tags if name.startswith(("dead", "hidden"))]
    assert tags["fast:latest"]["details"]["fleet_nodes"] == ["alpha"]
    assert tags["fast:latest"]["digest"] == tags["small:latest"]["digest"]
    assert {"fast", "huge"} <= {entry["id"] for entry in two_models.get("/v1/models")["data"]}
    assert two_models.get("/v1/models/fast")["id"] == "fast"


def test_lists_hide_aliases_if_the_owner_wants_that() -> None:
    settings = replace(settings_for_tests(), aliases=AliasSettings(("fast=m",), are_listed=False))
    with FakeOllama([MODEL]) as node, running_fleet({"alpha": node}, settings=settings) as fleet:
        assert [entry["name"] for entry in fleet.get("/api/tags")["models"]] == ["m:latest"]
        assert ask(fleet, "/api/chat", {"model": "fast", "messages": HI}).status == 200


LISTS: list[tuple[str, dict[str, str]]] = [
    ("/v1/models", {"anthropic-version": "2023-06-01"}),
    ("/v1/models", {}),
    ("/api/tags", {}),
]
CLAUDE = {"claude-opus", "claude-sonnet", "claude-haiku"}
ALL_TIERS = {*CLAUDE, "gpt-5", "gpt-5-mini"}


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (AliasSettings(), (CLAUDE, set(), set())),
        (AliasSettings(tiers_listed="all"), (ALL_TIERS,) * 3),
        (AliasSettings(tiers_listed="none"), (set(),) * 3),
        (AliasSettings(are_listed=False, tiers_listed="all"), (set(),) * 3),
        (AliasSettings(has_tiers=False), (set(),) * 3),
        (AliasSettings(("claude-opus*=m",), has_tiers=False), ({"claude-opus"}, set(), set())),
    ],
)
def test_lists_show_names_of_cloud_models_with_a_live_model_as_the_owner_wants(
    settings: AliasSettings, shown: tuple[set[str], ...]
) -> None:
    """Each listed name is answered, alone and in a chat; a fleet without a chat model lists none."""
    with FakeOllama([MODEL]) as node, running_fleet({}, settings=replace(settings_for_tests(), aliases=settings)) as f:
        assert not any(names(f, *one) for one in LISTS)
        f.join("alpha", node)
        found = tuple(names(f, *one) - {"m"} for one in LISTS)
        assert found == shown
        for name in set().union(*found):
            assert f.get(f"/v1/models/{name}")["id"] == name
            assert ask(f, "/api/chat", {"model": name, "messages": HI, "stream": False}).names == {name}


def test_a_name_of_a_cloud_model_is_a_model_for_who_asks_for_it_alone(two_models: Fleet) -> None:
    for name in (NAME, "gpt-5-codex", "o3"):
        assert two_models.get(f"/v1/models/{name}")["id"] == name
        assert ask(two_models, "/api/show", {"model": name}).status == 200
    assert ask(two_models, "/v1/models/gemini-2.5-pro", {}).status == 404


def names(fleet: Fleet, path: str, headers: dict[str, str]) -> set[str]:
    """The models in a list, without `:latest`."""
    lists = json.loads(ask(fleet, path, {}, headers).body)
    return {
        (one.get("id") or one["name"]).removesuffix(":latest") for one in lists.get("data") or lists.get("models", ())
    }


@pytest.mark.parametrize("keep_alive", [0, "5m"])
def test_an_alias_can_be_loaded_and_unloaded(two_models: Fleet, keep_alive: object) -> None:
    assert ask(two_models, "/api/generate", {"model": "fast", "keep_alive": keep_alive}).status == 200
