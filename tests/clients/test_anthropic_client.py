"""Tests the official `anthropic` client, sync and async, against /v1/messages."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from fakes.client_targets import Target

HI: list[Any] = [{"role": "user", "content": "Say hi."}]
WEATHER: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
PICTURE = base64.b64encode(b"\x89PNG not really").decode()


@pytest.fixture
def client(target: Target) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=target.url, api_key="unused", max_retries=0) as made:
        yield made


def test_a_message_without_streaming(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="talker", max_tokens=1000, messages=HI)
    assert answer.type == "message"
    assert answer.role == "assistant"
    assert [block.type for block in answer.content] == ["text"]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens > 0


def test_a_streamed_message_has_the_same_text(client: anthropic.Anthropic) -> None:
    whole: Any = client.messages.create(model="talker", max_tokens=1000, messages=HI)
    with client.messages.stream(model="talker", max_tokens=1000, messages=HI) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == whole.content[0].text
    assert last.stop_reason == "end_turn"
    assert last.usage.output_tokens == whole.usage.output_tokens


def test_max_tokens_ends_the_answer(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="talker", max_tokens=2, messages=HI, system="Be brief.")
    assert answer.stop_reason == "max_tokens"


def test_a_tool_call_and_its_result(client: anthropic.Anthropic) -> None:
    first = client.messages.create(model="talker", max_tokens=1000, messages=HI, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    use: Any = next(block for block in first.content if block.type == "tool_use")
    assert (use.name, use.input) == ("weather", {"town": "word"})
    spoken: Any = {"role": "assistant", "content": [block.model_dump() for block in first.content]}
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"}]}
    second = client.messages.create(model="talker", max_tokens=1000, messages=[*HI, spoken, result], tools=[WEATHER])
    assert [block.type for block in second.content] == ["text"]


def test_a_tool_call_is_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="talker", max_tokens=1000, messages=HI, tools=[WEATHER]) as stream:
        last = stream.get_final_message()
    use: Any = next(block for block in last.content if block.type == "tool_use")
    assert use.input == {"town": "word"}


def test_an_image_reaches_a_vision_model(client: anthropic.Anthropic) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    answer = client.messages.create(model="seer", max_tokens=1000, messages=[{"role": "user", "content": content}])
    assert answer.content


def test_an_unknown_model_is_a_404_in_the_clients_own_exception(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as whole:
        client.messages.create(model="nope", max_tokens=5, messages=HI)
    assert "nope" in whole.value.message
    with (
        pytest.raises(anthropic.NotFoundError),
        client.messages.stream(model="nope", max_tokens=5, messages=HI) as stream,
    ):
        stream.get_final_message()


def test_the_async_client(target: Target) -> None:
    async def scenario() -> None:
        async with anthropic.AsyncAnthropic(base_url=target.url, api_key="unused", max_retries=0) as client:
            whole: Any = await client.messages.create(model="talker", max_tokens=1000, messages=HI)
            async with client.messages.stream(model="talker", max_tokens=1000, messages=HI) as stream:
                text = "".join([part async for part in stream.text_stream])
            assert text == whole.content[0].text

    asyncio.run(scenario())
