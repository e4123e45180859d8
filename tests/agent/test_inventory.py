"""Tests which engines and models are reported when engines answer, hang, stop and return."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import herd.engines
from builders import a_model_info, an_engine
from fakes.faults import Cut, Hang, How
from fakes.llamacpp.engines import HAS_XLLAMACPP, LlamaEngine
from fakes.llamacpp.engines import EngineSettings as LlamaSettings
from fakes.ollama.server import FakeOllama
from herd.agent.inventory import MISSES_MAX, Engines, EngineSettings, LocalEngine, models_at
from herd.agent.ollama_environment import OllamaSetup
from herd.discover import discover
from herd.engines import Engine, Inventory

KNOWN = discover(herd.engines, Engine, "ENGINE")


def engines(
    url: str = "", engine: str = "ollama", timeout_s: float = 0.2, slots: int = 0, setup: OllamaSetup | None = None
) -> Engines:
    settings = EngineSettings(engine, url, slots=slots, timeout_s=timeout_s)
    return Engines(KNOWN, settings, lambda port, is_first: setup or OllamaSetup())


def with_ollama(play: Callable[[FakeOllama], Awaitable[None]]) -> None:
    async def go() -> None:
        async with FakeOllama(["m", "n"]) as fake:
            await play(fake)

    asyncio.run(go())


def names(found: list[LocalEngine]) -> list[str]:
    return sorted(model.name for local in found if local.last for model in local.last.models)


def test_an_engine_is_found_by_its_url_and_its_models_are_reported() -> None:
    async def play(fake: FakeOllama) -> None:
        local = engines(fake.url)
        found = await local.poll()
        assert (
            names(found) == ["m:latest", "n:latest"]
            and found[0].last is not None
            and found[0].last.version == "0.32.15"
        )
        endpoint = local.endpoint(found[0], "http://10.0.0.9:1")
        assert (endpoint.kind, endpoint.url, endpoint.slots) == ("ollama", "http://10.0.0.9:1", 1)
        assert {model.engine for model in models_at(found[0], endpoint)} == {endpoint}

    with_ollama(play)


def test_a_model_whose_name_no_client_can_send_does_not_cost_the_node_its_heartbeat() -> None:
    local = LocalEngine(KNOWN[0], "http://127.0.0.1:1")
    names_listed = ("My Model [Q4]", "x" * 257, "line\nbreak", "")
    local.last = Inventory("", tuple(a_model_info(name) for name in names_listed))
    assert [model.name for model in models_at(local, an_engine())] == ["My Model [Q4]"]


def test_a_url_without_a_kind_is_recognized() -> None:
    async def play(fake: FakeOllama) -> None:
        found = await engines(fake.url, engine="auto").poll()
        assert [local.engine.kind for local in found] == ["ollama"]

    with_ollama(play)


def test_polls_do_not_load_models_and_only_read() -> None:
    async def play(fake: FakeOllama) -> None:
        await engines(fake.url).poll()
        assert fake.loads == []
        assert {(seen.method, seen.path) for seen in fake.requests if seen.method != "GET"} == {("POST", "/api/show")}

    with_ollama(play)


def test_the_last_answer_of_a_hung_engine_is_reported_until_it_is_removed_and_it_is_found_again() -> None:
    async def play(fake: FakeOllama) -> None:
        local = engines(fake.url, timeout_s=0.05)
        assert names(await local.poll()) == ["m:latest", "n:latest"]
        fake.fail(Hang())
        for miss in range(1, MISSES_MAX):
            assert names(await local.poll()) == ["m:latest", "n:latest"] and local.failures == miss
        assert await local.poll() == []
        fake.heal()
        assert names(await local.poll()) == ["m:latest", "n:latest"] and local.failures == 0

    with_ollama(play)


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/version"])
def test_a_partial_answer_does_not_remove_models(path: str) -> None:
    async def play(fake: FakeOllama) -> None:
        local = engines(fake.url)
        await local.poll()
        fake.fail(Cut(path=path, after_bytes=3, how=How.FIN))
        assert names(await local.poll()) == ["m:latest", "n:latest"] and local.failures == 1

    with_ollama(play)


def test_a_stopped_engine_is_removed_and_found_again_when_it_returns() -> None:
    async def play(fake: FakeOllama) -> None:
        local = engines(fake.url)
        await local.poll()
        await fake.refuse()
        for _ in range(MISSES_MAX):
            found = await local.poll()
        assert found == []
        await fake.listen()
        assert names(await local.poll()) == ["m:latest", "n:latest"]

    with_ollama(play)


@pytest.mark.parametrize(
    ("setting", "setup", "slots", "models_max"),
    [(0, OllamaSetup(), 1, None), (0, OllamaSetup(4, 2), 4, 2), (3, OllamaSetup(4, None), 3, None)],
)
def test_slots_come_from_the_setting_or_else_from_ollamas_environment(
    setting: int, setup: OllamaSetup, slots: int, models_max: int | None
) -> None:
    async def play(fake: FakeOllama) -> None:
        local = engines(fake.url, slots=setting, setup=setup)
        endpoint = local.endpoint((await local.poll())[0], fake.url)
        assert (endpoint.slots, endpoint.models_max) == (slots, models_max)

    with_ollama(play)


@pytest.mark.skipif(not HAS_XLLAMACPP, reason="xllamacpp is not installed: NO REAL ENGINE IS TESTED")
def test_a_real_llamacpp_reports_its_slots_and_window() -> None:
    with LlamaEngine(LlamaSettings(alias="tiny", slots=2, context_tokens=2048)) as engine:
        local = engines(engine.url, engine="auto", timeout_s=5.0)
        found = asyncio.run(local.poll())
        endpoint = local.endpoint(found[0], engine.url)
        assert (endpoint.kind, endpoint.slots, names(found)) == ("llamacpp", 2, ["tiny"])
        assert found[0].last is not None and found[0].last.models[0].loaded is not None
        assert found[0].last.models[0].loaded.window_tokens == 2048


def test_an_engine_that_the_agent_started_is_not_probed_and_survives_missed_polls() -> None:
    async def play(fake: FakeOllama) -> None:
        local = engines(engine="embedded")
        assert await local.poll() == []
        local.add("ollama", fake.url)
        assert names(await local.poll()) == ["m:latest", "n:latest"]
        await fake.refuse()
        for _ in range(MISSES_MAX + 1):
            assert names(await local.poll()) == ["m:latest", "n:latest"]
        local.remove(fake.url)
        assert await local.poll() == []

    with_ollama(play)


def test_an_unknown_kind_is_reported_with_the_valid_ones() -> None:
    assert (
        engines(engine="ollama").problem == engines(engine="auto").problem == engines(engine="embedded").problem == ""
    )
    assert "'olama'" in engines(engine="olama").problem and "llamacpp" in engines(engine="olama").problem
