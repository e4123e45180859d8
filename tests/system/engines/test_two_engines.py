"""Tests a machine with two engines of one kind: each is a node with its own slots, models, speed and failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import herd.engines
from fakes.fleet import Fleet, running_fleet
from fakes.llamacpp.engines import HAS_XLLAMACPP, LlamaEngine, llama_engines
from fakes.llamacpp.engines import EngineSettings as LlamaSettings
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings
from fakes.real_ollama import CHAT_MODEL, NOT_FOUND, RealOllama, find_ollama
from fakes.scripted.keyed import VLLM_STYLE as VLLM_WITH_M
from fakes.scripted.keyed import KeyedEngine
from herd.agent.app import Agent, AgentSettings, Settings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.engine_list import EngineKeySettings
from herd.agent.inventory import EngineSettings
from herd.agent.model_registry import ModelRegistrySettings
from herd.discover import discover
from herd.engines import Engine, ollama
from herd.engines.vllm import ENGINE as VLLM
from herd.http1.client import Response, request

VLLM_STYLE = replace(
    VLLM_WITH_M, answers={"/v1/models": {"data": [{"id": "served", "owned_by": "vllm", "max_model_len": 4096}]}}
)
JSON = {"Content-Type": "application/json"}
Play = Callable[[Agent, Fleet], Awaitable[None]]
PATIENCE_S = 240.0
real_llamacpp = pytest.mark.skipif(not HAS_XLLAMACPP, reason="xllamacpp is not installed: NO REAL ENGINE IS TESTED")


def with_agent(folder: Path, kind: str, urls: Sequence[str], play: Play) -> None:
    async def go() -> None:
        settings = Settings(
            agent=AgentSettings(node_id="alpha", data_dir=folder / "agent"),
            engines=EngineSettings(engines=tuple(f"{kind}={url}" for url in urls), timeout_s=10.0),
            link=LinkSettings(fleet.url, 0.1, 20.0),
            model_registry=ModelRegistrySettings(share=False),
        )
        agent = Agent(settings, Random(1), "boot-1")
        await agent.start()
        try:
            await agent.beat()
            await play(agent, fleet)
        finally:
            await agent.stop()

    with running_fleet({}, data_dir=folder / "coordinator") as fleet:
        asyncio.run(go())


def second(url: str) -> str:
    """The name of the second engine's node."""
    return f"alpha:{url.rpartition(':')[2]}"


async def nodes(fleet: Fleet) -> dict[str, dict[str, object]]:
    status = json.loads((await request("GET", fleet.url + "/fleet/status?detail=full")).body)
    return {node["node_id"]: node for node in status["nodes"]}


async def beat_forever(agent: Agent) -> None:
    """The heartbeats of a running agent, while an engine loads its model for longer than a node may be silent."""
    while True:
        await agent.beat()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(agent.has_news.wait(), 1.0)


async def chat(fleet: Fleet, model: str, tokens: int = 4, **headers: str) -> Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await request("POST", fleet.url + "/v1/chat/completions", json.dumps(body).encode(), PATIENCE_S, named)


@real_llamacpp
def test_two_real_engines_of_one_kind_answer_the_same_model_at_the_same_time(tmp_path: Path) -> None:
    with llama_engines(2, LlamaSettings(alias="m")) as engines:
        urls = [engine.url for engine in engines]

        async def play(agent: Agent, fleet: Fleet) -> None:
            found = await nodes(fleet)
            assert set(found) == {"alpha", second(urls[1])}
            assert [len(node["engines"]) for node in found.values()] == [1, 1]  # type: ignore[arg-type]
            answers = await asyncio.gather(*(chat(fleet, "m", 64) for _ in range(6)))
            assert {answer.status for answer in answers} == {200}
            assert {answer.headers["x-fleet-node"] for answer in answers} == set(found)
            there = await chat(fleet, "m", X_Herd_Node=second(urls[1]))
            assert there.status == 200 and there.headers["x-fleet-node"] == second(urls[1])

        with_agent(tmp_path, "llamacpp", urls, play)


@real_llamacpp
@pytest.mark.parametrize("place", [0, 1])
def test_an_engine_that_is_killed_does_not_take_the_other_one_with_it(tmp_path: Path, place: int) -> None:
    with llama_engines(2, LlamaSettings(alias="m")) as engines:
        urls = [engine.url for engine in engines]
        names = ["alpha", second(urls[1])]

        async def play(agent: Agent, fleet: Fleet) -> None:
            engines[place].child.kill()
            for _ in range(4):
                answer = await chat(fleet, "m")
                assert answer.status == 200 and answer.headers["x-fleet-node"] == names[1 - place]
            for _ in range(4):
                await agent.beat()
            found = await nodes(fleet)
            with_engine = [name for name, node in found.items() if node["engines"]]
            assert with_engine == [names[1 - place]], found

        with_agent(tmp_path, "llamacpp", urls, play)


@real_llamacpp
def test_a_frozen_engine_leaves_the_other_one_in_use(tmp_path: Path) -> None:
    with llama_engines(2, LlamaSettings(alias="m")) as engines:
        urls = [engine.url for engine in engines]

        async def play(agent: Agent, fleet: Fleet) -> None:
            engines[1].child.freeze()
            while not any(local.silence.silent_s(asyncio.get_running_loop().time()) for local in agent.engines.found):
                await asyncio.wait_for(agent.has_news.wait(), PATIENCE_S)
            await agent.beat()
            found = await nodes(fleet)
            silent = {name: node["engines"][0]["silent_s"] for name, node in found.items()}  # type: ignore[index]
            assert silent["alpha"] == 0 and silent[second(urls[1])] > 0
            for _ in range(4):
                answer = await chat(fleet, "m")
                assert answer.status == 200 and answer.headers["x-fleet-node"] == "alpha"
            engines[1].child.thaw()

        with_agent(tmp_path, "llamacpp", urls, play)


def test_each_ollama_has_its_own_models_and_is_the_one_that_pulls_and_deletes(tmp_path: Path) -> None:
    registry = FakeSettings(registry={"new:latest": FakeModel(name="new")})
    with FakeOllama(["m", "only-here"], registry) as one, FakeOllama(["m", "only-there"], registry) as two:

        async def play(agent: Agent, fleet: Fleet) -> None:
            found = await nodes(fleet)
            models = {name: sorted(one["name"] for one in node["models"]) for name, node in found.items()}  # type: ignore[attr-defined]
            assert models == {
                "alpha": ["m:latest", "only-here:latest"],
                second(two.url): ["m:latest", "only-there:latest"],
            }
            for model, node in (("only-here", "alpha"), ("only-there", second(two.url))):
                answer = await chat(fleet, model)
                assert answer.status == 200 and answer.headers["x-fleet-node"] == node
            body = json.dumps({"model": "m", "node_id": second(two.url), "confirm": "m"}).encode()
            deleted = await request("POST", fleet.url + "/dashboard/api/delete", body, PATIENCE_S, JSON)
            assert deleted.status == 200, deleted
            assert "m:latest" in one.models and "m:latest" not in two.models
            for path, model, headers in (("/api/pull", "new", {}), ("/dashboard/api/pull", "only-here", JSON)):
                body = json.dumps({"model": model, "node_id": second(two.url)}).encode()
                assert (await request("POST", fleet.url + path, body, PATIENCE_S, headers)).status in (200, 202)
            assert "new:latest" in two.models and "new:latest" not in one.models
            assert {one.node_id for one in fleet.coordinator.transfers.table} == {second(two.url)}

        with_agent(tmp_path, "ollama", [one.url, two.url], play)


@pytest.mark.skipif(find_ollama() is None, reason=NOT_FOUND)
def test_two_real_ollamas_of_one_machine_both_answer(tmp_path: Path) -> None:
    binary = find_ollama()
    assert binary is not None
    with RealOllama(binary) as one, RealOllama(binary) as two:

        async def play(agent: Agent, fleet: Fleet) -> None:
            found = await nodes(fleet)
            assert set(found) == {"alpha", second(two.url)}
            beats = asyncio.create_task(beat_forever(agent))
            for node in found:
                assert (await chat(fleet, CHAT_MODEL, X_Herd_Node=node)).status == 200
            # A few short answers can all be finished first by the node that was faster before.
            answers = await asyncio.gather(*(chat(fleet, CHAT_MODEL, 48) for _ in range(8)))
            beats.cancel()
            await asyncio.wait([beats])
            assert {answer.status for answer in answers} == {200}, answers
            assert {answer.headers["x-fleet-node"] for answer in answers} == set(found)
            for _ in range(2):
                await agent.beat()
            loaded = [any(one["loaded"] for one in node["models"]) for node in (await nodes(fleet)).values()]  # type: ignore[attr-defined]
            assert loaded == [True, True]

        with_agent(tmp_path, "ollama", [one.url, two.url], play)


@real_llamacpp
def test_an_engine_that_is_no_longer_listed_leaves_the_fleet(tmp_path: Path) -> None:
    with LlamaEngine(LlamaSettings(alias="m")) as one, LlamaEngine(LlamaSettings(alias="m")) as two:

        async def play(agent: Agent, fleet: Fleet) -> None:
            assert set(await nodes(fleet)) == {"alpha", second(two.url)}
            agent.engines.remove(two.url)
            await agent.link.goodbye("alpha", "boot-1")
            assert await nodes(fleet) == {}

        with_agent(tmp_path, "llamacpp", [one.url, two.url], play)


@pytest.mark.parametrize("ollama_host", ["", "http://localhost:{port}"], ids=["", "ollama-herd's default"])
def test_two_ollamas_and_an_engine_with_a_key_join_with_no_setting_but_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ollama_host: str
) -> None:
    """As a new user starts `herd-node`, also with an environment file of ollama-herd, which has the default of every
    setting. One Ollama has the port to which another product moved it, beside this coordinator, which is not taken for
    an engine; here the ports are free ones."""
    for engine in discover(herd.engines, Engine, "ENGINE"):
        monkeypatch.setattr(engine, "default_port", 0)
        monkeypatch.setattr(engine, "more_ports", ())
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        KeyedEngine(VLLM_STYLE, "sk-engine") as vllm,
        running_fleet({}, data_dir=tmp_path / "coordinator") as fleet,
    ):
        monkeypatch.setattr(ollama.ENGINE, "default_port", port_of(one.url))
        monkeypatch.setattr(ollama.ENGINE, "more_ports", (fleet.port, port_of(two.url)))
        monkeypatch.setattr(VLLM, "default_port", port_of(vllm.url))
        host = ollama_host.format(port=port_of(one.url))
        asyncio.run(joined_and_asked(tmp_path, fleet, second(two.url), host))
        assert len(vllm.requests("/v1/chat/completions")) > 0


async def joined_and_asked(folder: Path, fleet: Fleet, name: str, ollama_host: str) -> None:
    settings = Settings(
        agent=AgentSettings(node_id="alpha", data_dir=folder / "agent"),
        engines=EngineSettings(timeout_s=10.0, ollama_host=ollama_host),
        engine_keys=EngineKeySettings("sk-engine"),
        link=LinkSettings(fleet.url, 0.1, 20.0),
        model_registry=ModelRegistrySettings(share=False),
    )
    agent = Agent(settings, Random(1), "boot-1")
    await agent.start()
    try:
        await agent.beat()
        found = await nodes(fleet)
        kinds = {node_id: [one["kind"] for one in node["engines"]] for node_id, node in found.items()}  # type: ignore[attr-defined]
        assert kinds == {"alpha": ["ollama", "vllm"], name: ["ollama"]}
        for model in ("m:latest", "served"):
            assert (await chat(fleet, model)).status == 200
    finally:
        await agent.stop()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
