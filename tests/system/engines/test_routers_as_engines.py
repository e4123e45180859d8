"""Tests that no router is taken for an engine, and that a request that comes back to its coordinator is stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from random import Random

import pytest

import herd.engines
from builders import a_model_info, a_report, an_engine
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.agent import routers
from herd.agent.app import Agent, AgentSettings, Settings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.inventory import Engines, EngineSettings
from herd.agent.model_registry import ModelRegistrySettings
from herd.agent.ollama_environment import OllamaSetup
from herd.agent_protocol import heartbeat_encode
from herd.discover import discover
from herd.engines import Engine, EngineResponse
from herd.http1.client import request

KNOWN = discover(herd.engines, Engine, "ENGINE")


def engines_at(*urls: str) -> Engines:
    return Engines(KNOWN, EngineSettings(engines=urls, timeout_s=10.0), lambda port, is_first: OllamaSetup())


def test_the_agent_does_not_take_a_coordinator_for_an_engine(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with FakeOllama(["m"]) as ollama, running_fleet({"alpha": ollama}) as fleet:
        engines = engines_at(f"ollama={fleet.url}", f"{fleet.url}", f"ollama={ollama.url}")
        found = [asyncio.run(engines.poll()) for _ in range(2)][-1]
    assert [local.url for local in found] == [ollama.url]
    [logged] = [record for record in caplog.records if "router" in record.getMessage()]
    assert "herd answers on this URL" in logged.getMessage() and logged.url == fleet.url  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (EngineResponse(200, b'{"max_retries": 3, "hot_model_cap": 4, "nodes": []}'), "ollama-herd"),
        (EngineResponse(200, b'{"max_retries": 3, "http.body_max_bytes": 1}'), "herd"),
        (EngineResponse(401, b"{}", {"x-request-id": "r1"}), "herd"),
        (EngineResponse(404, b"404 page not found"), ""),
        (EngineResponse(401, b'{"error":"Unauthorized"}'), ""),
        (EngineResponse(200, b"<html>"), ""),
        (EngineResponse(200, b"[1]"), ""),
        (EngineResponse(0, b""), ""),
    ],
)
def test_routers_are_recognised_by_a_path_that_no_engine_has(limits: EngineResponse, name: str) -> None:
    assert routers.own_router(limits) == name


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (EngineResponse(200, b'{"data":[]}', {"x-litellm-version": "1.104.2"}), "LiteLLM"),
        (EngineResponse(200, b'{"version":"0.1"}', {"x-olla-request-id": "a"}), "Olla"),
        (EngineResponse(200, b'{"data":[{"id":"m","object":"model","owned_by":"gpustack"}]}'), "GPUStack"),
        (EngineResponse(200, b'{"data":[{"id":"m","object":"model","owned_by":"vllm"}]}'), ""),
        (EngineResponse(200, b'{"version":"0.32.15"}', {"content-type": "application/json"}), ""),
    ],
)
def test_gateways_are_recognised_by_their_answers(answer: EngineResponse, name: str) -> None:
    assert routers.other_router(answer) == name


def announce(fleet: Fleet, node_id: str, url: str) -> None:
    endpoint = an_engine(url=url)
    report = a_report(node_id, [a_model_info("m", engine=endpoint)], engines=(endpoint,))
    fleet.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))


@pytest.mark.parametrize(
    ("path", "field"), [("/api/chat", "error"), ("/v1/chat/completions", "error"), ("/v1/messages", "error")]
)
def test_a_request_that_comes_back_gets_508_with_the_url_in_the_clients_format(path: str, field: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": False}
    with running_fleet({}) as fleet:
        announce(fleet, "alpha", fleet.url)
        answer = asyncio.run(request("POST", fleet.url + path, json.dumps(body).encode(), 30.0))
    error = json.loads(answer.body)[field]
    message = error if isinstance(error, str) else error["message"]
    assert answer.status == 508 and fleet.url in message and "FLEET_NODE_ENGINES" in message, answer


def test_a_request_that_comes_back_through_another_coordinator_is_stopped(tmp_path: Path) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}).encode()
    with running_fleet({}, data_dir=tmp_path / "one") as one, running_fleet({}, data_dir=tmp_path / "two") as two:
        announce(one, "two", two.url)
        announce(two, "one", one.url)
        answer = asyncio.run(request("POST", one.url + "/api/chat", body, 30.0))
    assert answer.status == 508 and two.url in json.loads(answer.body)["error"], answer


def test_a_chain_of_coordinators_without_a_circle_answers(tmp_path: Path) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}).encode()
    with (
        FakeOllama(["m"]) as ollama,
        running_fleet({"alpha": ollama}, data_dir=tmp_path / "one") as one,
        running_fleet({}, data_dir=tmp_path / "two") as two,
    ):
        announce(two, "one", one.url)
        answer = asyncio.run(request("POST", two.url + "/api/chat", body, 30.0))
    assert answer.status == 200, answer


def test_a_router_that_the_settings_name_is_a_finding_until_it_is_an_engine(tmp_path: Path) -> None:
    """It was only a line in the agent's log, and the node had no model without a reason."""

    async def play() -> None:
        settings = Settings(
            agent=AgentSettings(node_id="alpha", data_dir=tmp_path / "agent"),
            engines=EngineSettings(engine_url=router.url, timeout_s=10.0),
            link=LinkSettings(fleet.url, 0.1, 20.0),
            model_registry=ModelRegistrySettings(share=False),
        )
        agent = Agent(settings, Random(1), "boot-1")
        await agent.start()
        try:
            await agent.beat()
            found = json.loads((await request("GET", fleet.url + "/dashboard/api/health?refresh=1")).body)["findings"]
            [finding] = [one for one in found if one["check"] == "unusable_engine"]
            assert "it is a router and no engine" in finding["title"] and router.url in finding["title"]
            assert "FLEET_NODE_ENGINE_URL" in str(finding) and "FLEET_NODE_ENGINE_KEY" not in str(finding)
        finally:
            await agent.stop()

    with (
        running_fleet({}, data_dir=tmp_path / "router") as router,
        running_fleet({}, data_dir=tmp_path / "coordinator") as fleet,
    ):
        asyncio.run(play())
