"""Tests engines that require an API key, through a real agent and a real coordinator.

The key is on the agent's machine only: the coordinator, its clients and every output of both must not have it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.llamacpp.engines import HAS_XLLAMACPP, LlamaEngine
from fakes.llamacpp.engines import EngineSettings as LlamaSettings
from fakes.scripted.keyed import LM_STUDIO_STYLE, VLLM_STYLE, KeyedEngine, Style
from fakes.scripted.other_servers import KOBOLD, LEMONADE, SGLANG, TABBY
from herd.agent.app import Agent, AgentSettings, CannotStart, Settings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.engine_forwarder import ForwarderSettings
from herd.agent.engine_list import EngineKeySettings
from herd.agent.inventory import EngineSettings
from herd.agent.model_registry import ModelRegistrySettings
from herd.coordinator.auth.membership import MembershipSettings
from herd.http1.client import request

KEY = "sk-of-the-engine"
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
CLIENT_KEY = {"Authorization": "Bearer of-the-client", "X-Api-Key": "of-the-client"}
OTHER_STYLE = replace(LM_STUDIO_STYLE, answers={"/api/v0/models": {"data": [{"id": "other", "state": "loaded"}]}})
KOBOLD_STYLE = replace(
    KOBOLD, answers={**KOBOLD.answers, "/v1/models": {"data": [{"id": "m", "owned_by": "koboldcpp"}]}}
)
STYLES = (VLLM_STYLE, LM_STUDIO_STYLE, SGLANG, TABBY, KOBOLD_STYLE, LEMONADE)
Play = Callable[[Agent, Fleet], Awaitable[None]]


def with_agent(
    folder: Path, play: Play, engines: EngineSettings, keys: EngineKeySettings, has_tls: bool = False, **more: bool
) -> None:
    """`has_tls`: the fleet admits paired nodes only, and their forwarders encrypt."""

    async def go() -> None:
        settings = Settings(
            agent=AgentSettings(node_id="alpha", data_dir=folder / "agent", **more),
            engines=engines,
            engine_keys=keys,
            link=LinkSettings(fleet.url, 0.1, 10.0),
            model_registry=ModelRegistrySettings(share=False),
            forwarder=ForwarderSettings(tls=has_tls),
        )
        agent = Agent(settings, Random(1), "boot-1")
        await agent.start()
        try:
            await play(agent, fleet)
        finally:
            await agent.stop()

    membership = replace(settings_for_tests(), membership=MembershipSettings(open=not has_tls))
    with running_fleet({}, settings=membership, data_dir=folder / "coordinator") as fleet:
        asyncio.run(go())


async def seen_by_clients(fleet: Fleet) -> str:
    """Everything that the coordinator tells about the node."""
    paths = ("/fleet/status?detail=full", "/fleet/queue", "/dashboard/api/health", "/dashboard/api/overview")
    answers = [await request("GET", fleet.url + path) for path in paths]
    assert all(answer.status == 200 for answer in answers), answers
    return b"".join(answer.body for answer in answers).decode()


async def findings(fleet: Fleet) -> list[dict[str, object]]:
    answer = json.loads((await request("GET", fleet.url + "/dashboard/api/health?refresh=1")).body)
    return [finding for finding in answer["findings"] if finding["check"] in ("unusable_engine", "unreachable")]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.kind)
def test_an_engine_with_a_key_answers_and_the_key_stays_on_its_machine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, style: Style
) -> None:
    caplog.set_level(logging.DEBUG)

    async def play(agent: Agent, fleet: Fleet) -> None:
        for _ in range(3):
            await agent.beat()
            answer = await request("POST", fleet.url + "/v1/chat/completions", CHAT, 20.0, CLIENT_KEY)
            assert answer.status == 200 and b"Hello" in answer.body, answer
        assert KEY not in await seen_by_clients(fleet)

    with KeyedEngine(style, KEY) as engine:
        with_agent(tmp_path, play, EngineSettings(style.kind, engine.url), EngineKeySettings(KEY))
        chats = engine.requests("/v1/chat/completions")
    assert {headers["authorization"] for headers in chats} == {f"Bearer {KEY}"} and len(chats) == 3
    assert not any("of-the-client" in value for headers in chats for value in headers.values())
    assert KEY not in caplog.text + repr(caplog.records)
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not any(KEY.encode() in content for content in kept)


def test_two_engines_with_different_keys_answer_through_encrypted_forwarders(tmp_path: Path) -> None:
    """The key is added inside of TLS, also to a long body and on a connection that is used again."""
    file = tmp_path / "second.key"
    file.write_text("sk-second")
    long = CHAT.replace(b"hello", b"hello " * 100_000)

    async def ask(node: str, body: bytes = CHAT) -> int:
        headers = {**CLIENT_KEY, "X-Herd-Node": node}
        return (await request("POST", fleet_url[0] + "/v1/chat/completions", body, 60.0, headers)).status

    async def play(agent: Agent, fleet: Fleet) -> None:
        fleet_url.append(fleet.url)
        await agent.beat()
        approval = await request("POST", fleet.url + "/fleet/nodes/approve", b'{"name": "alpha"}')
        assert approval.status == 200, approval
        for _ in range(3):
            await agent.beat()
        found = json.loads((await request("GET", fleet.url + "/fleet/status?detail=full")).body)["nodes"]
        urls = {node["node_id"]: node["engines"][0]["url"] for node in found}
        assert set(urls) == {"alpha", further} and all(url.startswith("https://") for url in urls.values()), urls
        assert [await ask(node, body) for node in urls for body in (CHAT, long, CHAT)] == [200] * 6
        two.key = "sk-changed"
        file.write_text("sk-changed")
        for _ in range(2):
            await agent.beat()
        assert [await ask(node) for node in urls] == [200] * 2
        seen = await seen_by_clients(fleet)
        assert KEY not in seen and "sk-second" not in seen and "sk-changed" not in seen

    fleet_url: list[str] = []
    with KeyedEngine(VLLM_STYLE, KEY) as one, KeyedEngine(VLLM_STYLE, "sk-second") as two:
        further = f"alpha:{two.url.rpartition(':')[2]}"
        settings = EngineSettings(engines=(f"vllm={one.url};key={KEY}", f"vllm={two.url};key_file={file}"))
        with_agent(tmp_path, play, settings, EngineKeySettings(), has_tls=True)
        sent = [{headers["authorization"] for headers in each.requests("/v1/chat/completions")} for each in (one, two)]
    assert sent == [{f"Bearer {KEY}"}, {"Bearer sk-second", "Bearer sk-changed"}]


@pytest.mark.skipif(not HAS_XLLAMACPP, reason="xllamacpp is not installed: NO REAL ENGINE IS TESTED")
def test_a_real_llamacpp_with_a_key_is_found_by_its_answers_and_answers(tmp_path: Path) -> None:
    async def play(agent: Agent, fleet: Fleet) -> None:
        await agent.beat()
        answer = await request("POST", fleet.url + "/v1/chat/completions", CHAT, 60.0, CLIENT_KEY)
        assert answer.status == 200 and json.loads(answer.body)["choices"], answer

    with LlamaEngine(LlamaSettings(alias="m", api_key=KEY)) as engine:
        with_agent(tmp_path, play, EngineSettings("auto", engine.url), EngineKeySettings(KEY))


@pytest.mark.skipif(not HAS_XLLAMACPP, reason="xllamacpp is not installed: NO REAL ENGINE IS TESTED")
@pytest.mark.parametrize(
    ("keys", "setting"),
    [(EngineKeySettings(), "FLEET_NODE_ENGINE_KEY or "), (EngineKeySettings("sk-wrong"), "FLEET_NODE_ENGINE_KEY ")],
    ids=["missing", "wrong"],
)
def test_a_real_llamacpp_that_refuses_the_key_is_a_finding_with_the_setting(
    tmp_path: Path, keys: EngineKeySettings, setting: str
) -> None:
    async def play(agent: Agent, fleet: Fleet) -> None:
        await agent.beat()
        [finding] = await findings(fleet)
        assert "llama.cpp" in str(finding["title"]) and "alpha" in str(finding["title"])
        assert setting in str(finding["fix"]) and "alpha" in str(finding["fix"])
        assert json.loads((await request("GET", fleet.url + "/v1/models")).body)["data"] == []
        assert "sk-wrong" not in await seen_by_clients(fleet)

    with LlamaEngine(LlamaSettings(alias="m", api_key=KEY)) as engine:
        with_agent(tmp_path, play, EngineSettings("auto", engine.url), keys)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.kind)
def test_a_key_that_changes_while_the_agent_runs_is_a_finding_until_the_file_has_the_new_one(
    tmp_path: Path, style: Style
) -> None:
    file = tmp_path / "engine.key"
    file.write_text(KEY)

    async def play(agent: Agent, fleet: Fleet) -> None:
        await agent.beat()
        assert (await request("POST", fleet.url + "/v1/chat/completions", CHAT, 20.0)).status == 200
        engine.key = "sk-new"
        await agent.beat()
        [finding] = await findings(fleet)
        assert "FLEET_NODE_ENGINE_KEY_FILE" in str(finding["fix"])
        tried = len(engine.requests("/v1/chat/completions"))
        file.write_text("sk-new")
        for _ in range(2):
            await agent.beat()
        [node] = json.loads((await request("GET", fleet.url + "/fleet/status?detail=full")).body)["nodes"]
        assert [one["problem"] for one in node["engines"]] == [""]
        answer = await request("POST", fleet.url + "/v1/chat/completions", CHAT, 20.0)
        assert answer.status == 200 and len(engine.requests("/v1/chat/completions")) == tried + 1

    with KeyedEngine(style, KEY) as engine:
        with_agent(tmp_path, play, EngineSettings(style.kind, engine.url), EngineKeySettings(engine_key_file=file))


def test_a_401_stops_requests_to_this_engine_only_and_is_not_repeated(tmp_path: Path) -> None:
    """The LM Studio of the same machine has another model, and answers as before."""
    other = CHAT.replace(b'"m"', b'"other"')

    async def play(agent: Agent, fleet: Fleet) -> None:
        await agent.beat()
        engine.key = "sk-new"
        for _ in range(3):
            answer = await request("POST", fleet.url + "/v1/chat/completions", CHAT, 20.0, {"X-Request-Timeout": "0.3"})
            assert answer.status in (502, 504), answer
        assert len(engine.requests("/v1/chat/completions")) == 1
        assert (await request("POST", fleet.url + "/v1/chat/completions", other, 20.0)).status == 200

    with KeyedEngine(VLLM_STYLE, KEY) as engine, KeyedEngine(OTHER_STYLE, "") as open_engine:
        settings = EngineSettings(engines=(f"vllm={engine.url};key={KEY}", f"lmstudio={open_engine.url}"))
        with_agent(tmp_path, play, settings, EngineKeySettings())


def test_without_forwarder_an_engine_with_a_key_is_a_finding(tmp_path: Path) -> None:
    async def play(agent: Agent, fleet: Fleet) -> None:
        await agent.beat()
        [finding] = await findings(fleet)
        assert "FLEET_NODE_RELAY=true" in str(finding["fix"])

    with KeyedEngine(VLLM_STYLE, KEY) as engine:
        settings = EngineSettings(engines=(f"{engine.url};key={KEY}",))
        with_agent(tmp_path, play, settings, EngineKeySettings(), uses_forwarders=False)


def test_an_engine_without_a_key_is_not_sent_the_one_of_the_settings(tmp_path: Path) -> None:
    async def play(agent: Agent, fleet: Fleet) -> None:
        await agent.beat()
        assert (await request("POST", fleet.url + "/v1/chat/completions", CHAT, 20.0)).status == 200

    with KeyedEngine(VLLM_STYLE, "") as engine:
        with_agent(tmp_path, play, EngineSettings("vllm", engine.url), EngineKeySettings(KEY))
        assert not any("authorization" in headers for _, _, headers in engine.seen)


@pytest.mark.parametrize(
    "engines",
    [("vllm=https://box:1;key=sk-secret",), ("olama=http://box:1;key=sk-secret",), ("vllm=http://a:1;key=ü",)],
)
def test_a_list_that_cannot_be_read_stops_the_start_and_its_message_has_no_key(
    tmp_path: Path, engines: tuple[str, ...]
) -> None:
    settings = Settings(
        agent=AgentSettings(node_id="alpha", data_dir=tmp_path), engines=EngineSettings(engines=engines)
    )
    with pytest.raises(CannotStart) as error:
        asyncio.run(Agent(settings, Random(1), "boot-1").start())
    assert "sk-secret" not in str(error.value) and "ü" not in str(error.value)
