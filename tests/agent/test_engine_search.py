"""Each server is reported as what it is, on whatever port it listens, and with the key that it requires."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

import herd.engines
from fakes.ollama.server import FakeOllama
from fakes.scripted.keyed import VLLM_STYLE, KeyedEngine, Style
from fakes.scripted.other_servers import KOBOLD, LEMONADE, STYLES, TABBY
from herd.agent.engine_list import EngineKeySettings
from herd.agent.inventory import Engines, EngineSettings, LocalEngine
from herd.agent.ollama_environment import OllamaSetup
from herd.discover import discover
from herd.engines import Engine

KNOWN = discover(herd.engines, Engine, "ENGINE")
KEY = "sk-right"
BEHIND_KEY = (TABBY, KOBOLD, LEMONADE)
by_kind = pytest.mark.parametrize("style", BEHIND_KEY, ids=lambda style: style.kind)


def engines(key: str = "", **settings: Any) -> Engines:
    more = {"timeout_s": 20.0, **settings}
    return Engines(KNOWN, EngineSettings(**more), lambda port, is_first: OllamaSetup(), EngineKeySettings(key))


def polled(agent: Engines, times: int = 1) -> list[LocalEngine]:
    async def poll() -> list[LocalEngine]:
        return [await agent.poll() for _ in range(times)][-1]

    return asyncio.run(poll())


def kinds(found: list[LocalEngine]) -> list[str]:
    return [local.engine.kind for local in found]


@pytest.mark.parametrize("style", (*STYLES, VLLM_STYLE), ids=lambda style: style.kind)
def test_a_url_without_a_kind_is_what_its_server_is(style: Style) -> None:
    with KeyedEngine(style, "") as server:
        for settings in ({"engine_url": server.url}, {"engines": (server.url,)}):
            found = polled(engines(**settings))
            assert kinds(found) == [style.kind]
            assert found[0].last is not None and found[0].last.models


@pytest.mark.parametrize("style", (*STYLES, VLLM_STYLE), ids=lambda style: style.kind)
def test_on_the_port_of_another_kind_it_is_found_as_what_it_is(style: Style, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent expects an Ollama there, and nothing anywhere else."""
    for engine in KNOWN:
        monkeypatch.setattr(type(engine), "more_ports", ())
        monkeypatch.setattr(type(engine), "default_port", 9)
    with KeyedEngine(style, "") as server:
        agent = engines(ollama_host=server.url)
        assert kinds(polled(agent, 2)) == [style.kind]


def test_a_server_of_no_known_kind_is_asked_once_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in KNOWN:
        monkeypatch.setattr(type(engine), "more_ports", ())
        monkeypatch.setattr(type(engine), "default_port", 9)
    other = Style("", {"/": {"name": "a web page"}}, {}, server="nginx")
    with KeyedEngine(other, "") as server:
        agent = engines(ollama_host=server.url)
        assert polled(agent, 2) == []
        asked = [path for _, path, _ in server.seen]
        assert len(asked) > len(KNOWN)
        polled(agent, 3)
        assert [path for _, path, _ in server.seen[len(asked) :]] == ["/api/version"] * 3
        server.style = replace(VLLM_STYLE, answers={**VLLM_STYLE.answers, "/api/version": {"note": "answers now"}})
        assert kinds(polled(agent)) == ["vllm"]


@by_kind
def test_with_a_password_it_is_used_only_with_the_right_key(style: Style) -> None:
    with KeyedEngine(style, KEY) as server:
        for key, problem in ((KEY, ""), ("", "requires an API key"), ("sk-wrong", "refuses the API key")):
            agent = engines(key, engine_url=server.url)
            found = polled(agent, 2)
            refused = " ".join(endpoint.problem for endpoint in agent.refused)
            assert (kinds(found) == [style.kind]) is (not problem) and problem in refused, (key, refused)
            assert [local.key for local in found] == ([KEY] if not problem else [])


@by_kind
def test_a_missing_key_is_logged_once_and_a_changed_one_noticed(style: Style, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with KeyedEngine(style, KEY) as server:
        agent = engines(engine_url=server.url)
        polled(agent, 4)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        server.key = ""
        assert kinds(polled(agent)) == [style.kind] and agent.refused == []
        server.key = "sk-new"
        assert polled(agent) == [] or agent.refused
        assert style.kind in {endpoint.kind for endpoint in agent.refused}


def test_a_real_ollama_stays_one_although_all_kinds_are_asked() -> None:
    async def play() -> None:
        async with FakeOllama(["m"]) as fake:
            agent = engines(ollama_host=fake.url)
            found = [local for local in await agent.poll() if urlsplit(local.url).port == fake.port]
            assert kinds(found) == ["ollama"]

    asyncio.run(play())


def test_a_configured_kind_is_not_questioned() -> None:
    with KeyedEngine(KOBOLD, "") as server:
        assert kinds(polled(engines(engine="ollama", ollama_host=server.url))) == ["ollama"]
        assert kinds(polled(engines(engines=(f"llamacpp={server.url}",)))) == ["llamacpp"]
