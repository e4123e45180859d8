"""The official `ollama` library, used as Home Assistant's Ollama integration uses it (components/ollama).

Its setup lists the models and pulls a missing one. Its conversation agent streams with tools, a window, a thinking
switch and a `keep_alive` in seconds, by default "-1s".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import ollama
import pytest

from fakes.client_targets import Target, client_models
from fakes.fleet import running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama

Json = dict[str, Any]

LIGHT = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "description": "Turns on a device",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "domain": {"type": "array", "items": {"type": "string"}}},
            "required": [],
        },
    },
}
HISTORY: list[Json] = [
    {"role": "system", "content": "You are a voice assistant for Home Assistant."},
    {"role": "user", "content": "Turn on the lamp"},
]
ROUND: list[Json] = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "HassTurnOn", "arguments": {"name": "lamp"}}}],
    },
    {"role": "tool", "content": json.dumps({"success": True})},
]
PLACE = {"type": "object", "properties": {"rooms": {"type": "array", "items": {"type": "string"}}}}


def client(url: str, key: str = "") -> ollama.AsyncClient:
    headers: Mapping[str, str] = {"Authorization": f"Bearer {key}"} if key else {}
    return ollama.AsyncClient(host=url, headers=headers)


async def chat(
    url: str, model: str, messages: list[Json], *, key: str = "", keep_alive: str = "-1s", **more: Any
) -> list[ollama.ChatResponse]:
    settings: Json = {"options": {"num_ctx": 8192.0}, "think": False, "format": None, **more}
    async with client(url, key) as used:
        answer: AsyncIterator[ollama.ChatResponse] = await used.chat(
            model=model, messages=messages, stream=True, keep_alive=keep_alive, **settings
        )
        return [part async for part in answer]


async def names(url: str, key: str = "") -> set[str | None]:
    async with client(url, key) as used:
        return {model.model for model in (await used.list()).models}


def test_its_setup_lists_the_models(target: Target) -> None:
    assert {"talker:latest", "thinker:latest"} <= asyncio.run(names(target.url))


@pytest.mark.parametrize("keep_alive", ["-1s", "0s", "30s", "86400s"])
def test_its_agent_streams_an_answer_after_a_tool_call(target: Target, keep_alive: str) -> None:
    parts = asyncio.run(chat(target.url, "talker:latest", [*HISTORY, *ROUND], tools=[LIGHT], keep_alive=keep_alive))
    assert "".join(part.message.content or "" for part in parts)
    assert parts[-1].done and parts[-1].done_reason == "stop"
    [sent] = [json.loads(one.body) for one in target.fake.requests if one.path == "/api/chat"][-1:]
    assert sent["keep_alive"] == keep_alive and sent["tools"] == [LIGHT]
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool"]


def test_its_data_task_gets_json(target: Target) -> None:
    parts = asyncio.run(chat(target.url, "talker", HISTORY, format=PLACE))
    assert isinstance(json.loads("".join(part.message.content or "" for part in parts)), dict)


def test_thinking_can_be_turned_on(target: Target) -> None:
    parts = asyncio.run(chat(target.url, "thinker", HISTORY, think=True))
    assert "".join(part.message.thinking or "" for part in parts)


def test_its_key_is_accepted_and_another_one_is_an_error() -> None:
    with FakeOllama(client_models()) as fake, running_fleet({"a": fake}, settings=settings_of_steady_nodes()) as fleet:
        key = fleet.ask("POST", "/fleet/keys", b'{"name": "home", "scopes": ["chat"]}')["key"]
        assert asyncio.run(names(fleet.url, key))
        assert asyncio.run(chat(fleet.url, "talker", HISTORY, key=key))[-1].done
        with pytest.raises(ollama.ResponseError) as error:
            asyncio.run(names(fleet.url, "of-yesterday"))
        assert error.value.status_code == 401
