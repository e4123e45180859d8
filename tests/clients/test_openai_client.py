"""Tests the official `openai` client, sync and async, against /v1."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from fakes.client_targets import Target

HI: list[Any] = [{"role": "user", "content": "Say hi."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
PICTURE = base64.b64encode(b"\x89PNG not really").decode()


@pytest.fixture
def client(target: Target) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{target.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_chat_without_streaming(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="talker", messages=HI, seed=7)
    assert answer.object == "chat.completion"
    assert answer.model == "talker"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams_the_same_text_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="talker", messages=HI, seed=7).choices[0].message.content
    parts = list(client.chat.completions.create(model="talker", messages=HI, seed=7, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].choices[0].finish_reason == "stop"
    assert len({part.id for part in parts}) == 1


def test_a_stream_reports_its_usage_on_request(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    parts = list(client.chat.completions.create(model="talker", messages=HI, stream=True, stream_options=options))
    assert parts[-1].choices == []
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens > 0


def test_max_tokens_ends_by_length(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="talker", messages=HI, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"


def test_a_tool_call_and_its_result(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="talker", messages=HI, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    call: Any = (first.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"town": "word"}
    spoken: Any = {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    second = client.chat.completions.create(model="talker", messages=[*HI, spoken, result], tools=[WEATHER])
    assert second.choices[0].message.content


def test_a_tool_call_is_streamed(client: openai.OpenAI) -> None:
    parts = list(client.chat.completions.create(model="talker", messages=HI, tools=[WEATHER], stream=True))
    calls = [call for part in parts for call in part.choices[0].delta.tool_calls or []]
    assert "".join(call.function.name or "" for call in calls if call.function) == "weather"
    assert json.loads("".join(call.function.arguments or "" for call in calls if call.function)) == {"town": "word"}
    assert parts[-1].choices[0].finish_reason == "tool_calls"


def test_an_image_part_reaches_a_vision_model(client: openai.OpenAI) -> None:
    url = f"data:image/png;base64,{PICTURE}"
    content: Any = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = client.chat.completions.create(model="seer", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content


def test_json_and_schema_formats(client: openai.OpenAI) -> None:
    schema: Any = {"type": "object", "properties": {"name": {"type": "string"}}}
    shaped: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    plain = client.chat.completions.create(model="talker", messages=HI, response_format={"type": "json_object"})
    fitted = client.chat.completions.create(model="talker", messages=HI, response_format=shaped)
    assert isinstance(json.loads(plain.choices[0].message.content or ""), dict)
    assert json.loads(fitted.choices[0].message.content or "").keys() == {"name"}


def test_completions_with_and_without_streaming(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="talker", prompt="Say hi.", seed=7)
    parts = list(client.completions.create(model="talker", prompt="Say hi.", seed=7, stream=True))
    assert whole.object == "text_completion"
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text


def test_embeddings_as_numbers_and_as_bytes(client: openai.OpenAI) -> None:
    numbers = client.embeddings.create(model="embedder", input=["a", "b"], encoding_format="float", dimensions=4)
    assert [len(entry.embedding) for entry in numbers.data] == [4, 4]
    assert [entry.index for entry in numbers.data] == [0, 1]
    # Without an encoding the client asks for base64 and decodes it itself.
    default = client.embeddings.create(model="embedder", input="a", dimensions=4)
    rounded = struct.unpack("<4f", struct.pack("<4f", *numbers.data[0].embedding))
    assert default.data[0].embedding == pytest.approx(rounded)


def test_the_model_lists(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert names == {"talker:latest", "seer:latest", "thinker:latest", "embedder:latest"}
    one = client.models.retrieve("talker:latest")
    assert (one.id, one.object) == ("talker:latest", "model")


def test_an_unknown_model_is_a_404_in_the_clients_own_exception(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as whole:
        client.chat.completions.create(model="nope", messages=HI)
    with pytest.raises(openai.NotFoundError) as streamed:
        list(client.chat.completions.create(model="nope", messages=HI, stream=True))
    with pytest.raises(openai.NotFoundError) as embedded:
        client.embeddings.create(model="nope", input="x")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")
    for caught in (whole, streamed, embedded):
        assert "nope" in caught.value.message
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"]


def test_an_invalid_request_is_a_400_in_the_clients_own_exception(client: openai.OpenAI) -> None:
    nonsense: Any = [{"role": "user", "content": 5}]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="talker", messages=nonsense)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="talker", messages=[])


def test_the_async_client(target: Target) -> None:
    async def scenario() -> None:
        async with openai.AsyncOpenAI(base_url=f"{target.url}/v1", api_key="unused", max_retries=0) as client:
            whole = await client.chat.completions.create(model="talker", messages=HI, seed=9)
            stream = await client.chat.completions.create(model="talker", messages=HI, seed=9, stream=True)
            text = "".join([part.choices[0].delta.content or "" async for part in stream])
            assert text == whole.choices[0].message.content
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="nope", messages=HI)

    asyncio.run(scenario())
