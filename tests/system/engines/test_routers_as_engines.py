"""Tests that no router is taken for an engine, and that a request that comes back to its coordinator is stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest

import herd.engines
from builders import a_model_info, a_report, an_engine
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from fakes.scripted.threaded_server import ThreadedServer
from herd.agent import routers
from herd.agent.app import Agent, AgentSettings, Settings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.inventory import Engines, EngineSettings, LocalEngine
from herd.agent.model_registry import ModelRegistrySettings
from herd.agent.ollama_environment import OllamaSetup
from herd.agent_protocol import heartbeat_encode
from herd.core.state.fleet import Loaded, ModelInfo
from herd.discover import discover
from herd.engines import Engine, EngineResponse
from herd.engines.ollama import ENGINE as OLLAMA
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
        (EngineResponse(200, b'{"models":[]}', {"x-pair-node": "box"}), "PAIR"),
        (EngineResponse(200, b'{"data":[{"id":"weak","object":"model","created":0,"owned_by":"pair"}]}'), "PAIR"),
        (EngineResponse(200, b'{"version":"0.32.15"}', {"content-type": "application/json"}), ""),
    ],
)
def test_gateways_are_recognised_by_their_answers(answer: EngineResponse, name: str) -> None:
    assert routers.other_router(answer) == name


class TakeoverProxy(ThreadedServer):
    """Answers as the Ollama behind it, as a product does that took its port."""

    def __init__(self, behind: str) -> None:
        class Passing(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = asyncio.run(request(self.command, behind + self.path, body, 30.0))
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def do_GET(self) -> None:
                self._pass()

            def do_POST(self) -> None:
                self._pass()

            def log_message(self, format: str, *args: object) -> None:
                """Keeps the output of the tests clean."""

        super().__init__(Passing)


@pytest.fixture
def ollamas_expected_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets where the agent looks for an Ollama, and nothing else."""
    monkeypatch.delenv("OLLAMA_HOST", raising=False)

    def expect(first: str, second: str) -> None:
        for engine in KNOWN:
            monkeypatch.setattr(engine, "default_port", 0)
            monkeypatch.setattr(engine, "more_ports", ())
        monkeypatch.setattr(OLLAMA, "default_port", urlsplit(first).port)
        monkeypatch.setattr(OLLAMA, "more_ports", (urlsplit(second).port,))

    return expect


def instances(found: list[LocalEngine]) -> dict[str, str]:
    return {local.url: local.instance for local in found}


def test_a_proxy_that_took_ollamas_port_is_left_out_once_a_model_in_memory_shows_it(
    ollamas_expected_at: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}).encode()
    with FakeOllama(["m", "n"]) as moved, TakeoverProxy(moved.url) as proxy:
        ollamas_expected_at(proxy.url, moved.url)
        engines = Engines(KNOWN, EngineSettings(timeout_s=10.0), lambda port, is_first: OllamaSetup())

        async def play() -> list[dict[str, str]]:
            before = instances(await engines.poll())
            assert (await request("POST", proxy.url + "/api/chat", body, 30.0)).status == 200
            return [before, *[instances(await engines.poll()) for _ in range(8)]]

        before, *after = asyncio.run(play())
    assert set(before) == {proxy.url, moved.url}, "two Ollamas with one folder would look the same"
    assert after == [{moved.url: ""}] * 8, "it takes the first place, and the proxy does not come back"
    assert sum("passes on what another Ollama" in record.getMessage() for record in caplog.records) == 1


def test_two_ollamas_with_one_folder_stay_two(ollamas_expected_at: Callable[[str, str], None]) -> None:
    body = json.dumps({"model": "m", "prompt": "hi", "stream": False}).encode()
    with FakeOllama(["m"]) as one, FakeOllama(["m"]) as two:
        ollamas_expected_at(one.url, two.url)
        engines = Engines(KNOWN, EngineSettings(timeout_s=10.0), lambda port, is_first: OllamaSetup())

        async def play() -> list[dict[str, str]]:
            for url in (one.url, two.url):
                assert (await request("POST", url + "/api/generate", body, 30.0)).status == 200
            return [instances(await engines.poll()) for _ in range(3)]

        assert asyncio.run(play()) == [{one.url: "", two.url: str(urlsplit(two.url).port)}] * 3


def loaded(name: str, expires_at: str) -> ModelInfo:
    """A model that is in memory until then; on disk only without a time."""
    memory = Loaded(1, expires_at=expires_at) if expires_at else None
    return replace(a_model_info(name, digest=f"digest of {name}"), loaded=memory)


NOON, LATER = "2026-11-28T12:00:00.123456789Z", "2026-11-28T12:00:00.123456790Z"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([loaded("m", NOON)], [loaded("m", NOON)], {"a": "b"}),
        ([loaded("m", NOON), loaded("far", LATER)], [loaded("m", NOON), loaded("n", "")], {}),
        ([loaded("m", NOON), loaded("far", LATER)], [loaded("m", NOON)], {"a": "b"}),
        ([loaded("m", NOON)], [loaded("m", NOON), loaded("n", "")], {"b": "a"}),
        ([loaded("m", NOON)], [loaded("m", LATER)], {}),
        ([loaded("m", "")], [loaded("m", "")], {}),
        ([], [], {}),
    ],
)
def test_a_proxy_has_every_file_and_unload_time_of_the_ollama_behind_it(
    first: list[ModelInfo], second: list[ModelInfo], expected: dict[str, str]
) -> None:
    assert routers.fronts({"a": first, "b": second}) == expected


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
