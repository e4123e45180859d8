"""Tests requests without a prompt, which load a model or unload it on every node."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from fakes.faults import Cut, How
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.llamacpp.engines import LlamaEngine
from fakes.ollama.server import FakeOllama
from herd.coordinator.models.pinned_models import PinSettings
from herd.coordinator.proxy.auto_pull import AutoPullSettings

UNLOADED = ("done", "done_reason")


@contextmanager
def two(settings: Any = None) -> Iterator[tuple[Fleet, FakeOllama, FakeOllama]]:
    """Two nodes that have the model in memory."""
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as other,
        running_fleet({"one": one, "two": other}, settings=settings) as fleet,
    ):
        for node_id in ("one", "two"):
            ask(fleet, "/fleet/load", {"model": "m", "node_id": node_id})
        fleet.beat()
        assert one.scheduler.listed() and other.scheduler.listed()
        yield fleet, one, other


def ask(fleet: Fleet, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize("keep_alive", [0, 0.0, -0.0, "0", "0m", "0s", "0h0m0.0s"])
@pytest.mark.parametrize(
    ("path", "rest", "answer"),
    [
        ("/api/generate", {}, {"response": ""}),
        ("/api/generate", {"prompt": "", "stream": False}, {"response": ""}),
        ("/api/chat", {"messages": []}, {"message": {"role": "assistant", "content": ""}}),
    ],
)
def test_a_keep_alive_of_zero_unloads_the_model_on_every_node(
    keep_alive: object, path: str, rest: dict[str, object], answer: dict[str, object]
) -> None:
    with two() as (fleet, one, other):
        status, found = ask(fleet, path, {"model": "m", "keep_alive": keep_alive} | rest)
        assert status == 200
        assert found.items() >= ({"model": "m", "done": True, "done_reason": "unload"} | answer).items()
        assert not one.scheduler.listed() and not other.scheduler.listed()
        assert fleet.get("/api/ps") == {"models": []}, "before any heartbeat"


def test_an_unloaded_model_stays_unloaded_on_every_node_and_is_still_an_unload() -> None:
    with FakeOllama(["m"]) as one, running_fleet({"one": one}) as fleet:
        assert ask(fleet, "/api/generate", {"model": "m", "keep_alive": 0})[1]["done_reason"] == "unload"
        assert not one.scheduler.listed()


@pytest.mark.parametrize("keep_alive", [None, 60, -1, "10m", "-1s", "1h0m"])
def test_without_a_keep_alive_of_zero_the_model_is_loaded_once(keep_alive: object) -> None:
    with FakeOllama(["m"]) as one, FakeOllama(["m"]) as other, running_fleet({"one": one, "two": other}) as fleet:
        status, found = ask(fleet, "/api/generate", {"model": "m", "keep_alive": keep_alive})
        assert (status, found["done_reason"]) == (200, "load")
        assert len(one.scheduler.loads) + len(other.scheduler.loads) == 1
        sent = [json.loads(seen.body) for seen in (*one.requests, *other.requests) if seen.path == "/api/generate"]
        assert [body["keep_alive"] for body in sent] == [keep_alive]


def test_a_prompt_with_a_keep_alive_of_zero_is_an_ordinary_request() -> None:
    with two() as (fleet, *_):
        body = {"model": "m", "prompt": "x", "keep_alive": 0, "stream": False}
        status, found = ask(fleet, "/api/generate", body)
        assert status == 200 and found["response"]


def test_a_required_node_is_the_only_one_that_unloads() -> None:
    with two() as (fleet, one, other):
        assert ask(fleet, "/api/generate", {"model": "m", "keep_alive": 0}, {"X-Herd-Node": "two"})[0] == 200
        assert one.scheduler.listed() and not other.scheduler.listed()
        assert ask(fleet, "/api/generate", {"model": "m", "keep_alive": 0}, {"X-Herd-Node": "none"})[0] == 404


def test_an_unload_of_an_unknown_name_downloads_nothing() -> None:
    settings = replace(settings_for_tests(), auto_pull=AutoPullSettings(is_on=True))
    with two(settings) as (fleet, one, other):
        status, found = ask(fleet, "/api/generate", {"model": "mm", "keep_alive": 0})
        assert status == 404 and found["error"] == "model 'mm' not found on any node; the fleet has m"
        assert not any(seen.path == "/api/pull" for seen in (*one.requests, *other.requests))


def test_a_node_that_fails_is_named_and_the_others_unload() -> None:
    with two() as (fleet, one, other):
        other.fail(Cut(how=How.RESET, path="/api/generate"))
        status, found = ask(fleet, "/api/generate", {"model": "m", "keep_alive": 0})
        other.heal()
        assert status == 502 and found["error"].startswith("m was unloaded on one, but not on two: ")
        assert not one.scheduler.listed()


def test_a_pinned_model_is_not_unloaded_and_the_error_says_how() -> None:
    settings = replace(settings_for_tests(), pinned_models=PinSettings(models="m@two"))
    with two(settings) as (fleet, one, other):
        status, found = ask(fleet, "/api/generate", {"model": "m", "keep_alive": 0})
        assert status == 409 and found["error"].endswith("not on two: it is pinned; unpin it with: herd unpin m:latest")
        assert not one.scheduler.listed() and other.scheduler.listed()


@pytest.mark.parametrize("keep_alive", [0, "0m"])
def test_an_engine_that_cannot_unload_says_so_and_is_asked_nothing(keep_alive: object) -> None:
    with LlamaEngine() as engine, running_fleet({"one": engine}) as fleet:
        model = fleet.get("/api/tags")["models"][0]["name"]
        status, found = ask(fleet, "/api/chat", {"model": model, "keep_alive": keep_alive})
        assert status == 501
        assert (
            found["error"]
            == f"{model} was unloaded on no node; one: the engine llamacpp cannot unload a model on request"
        )


def test_loading_a_model_of_another_engine_sends_it_nothing() -> None:
    with LlamaEngine() as engine, running_fleet({"one": engine}) as fleet:
        model = fleet.get("/api/tags")["models"][0]["name"]
        status, found = ask(fleet, "/api/generate", {"model": model})
        assert (status, found["done_reason"], found["response"]) == (200, "load", "")
