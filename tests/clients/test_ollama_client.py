"""Tests the official `ollama` client, sync and async, with all requests that it can send to an Ollama endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import ollama
import pytest

from fakes.client_targets import Target

HI = [{"role": "user", "content": "Say hi."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
PICTURE = base64.b64encode(b"\x89PNG not really").decode()
PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}


def test_chat_without_streaming(target: Target) -> None:
    with ollama.Client(target.url) as client:
        answer = client.chat("talker", HI, options={"seed": 7})
    assert answer.model == "talker"
    assert answer.message.role == "assistant"
    assert answer.message.content
    assert answer.done
    assert answer.done_reason == "stop"
    assert (answer.prompt_eval_count or 0) > 0
    assert (answer.eval_count or 0) > 0


def test_chat_streams_the_same_text_in_pieces(target: Target) -> None:
    with ollama.Client(target.url) as client:
        whole = client.chat("talker", HI, options={"seed": 7}).message.content
        parts = list(client.chat("talker", HI, options={"seed": 7}, stream=True))
    assert len(parts) > 2
    assert "".join(part.message.content or "" for part in parts) == whole
    assert [part.done for part in parts[:-1]] == [False] * (len(parts) - 1)
    assert parts[-1].done_reason == "stop"


def test_num_predict_ends_by_length(target: Target) -> None:
    with ollama.Client(target.url) as client:
        answer = client.chat("talker", HI, options={"num_predict": 3})
    assert (answer.done_reason, answer.eval_count) == ("length", 3)


def test_generate_with_and_without_streaming(target: Target) -> None:
    with ollama.Client(target.url) as client:
        whole = client.generate("talker", "Say hi.", options={"seed": 7})
        parts = list(client.generate("talker", "Say hi.", options={"seed": 7}, stream=True))
    assert whole.response
    assert whole.context
    assert "".join(part.response for part in parts) == whole.response


def test_an_empty_prompt_loads_the_model(target: Target) -> None:
    with ollama.Client(target.url) as client:
        answer = client.generate("talker", "")
        assert (answer.done_reason, answer.response) == ("load", "")
        assert "talker:latest" in target.fake.loaded


def test_a_tool_call_and_its_result(target: Target) -> None:
    with ollama.Client(target.url) as client:
        first = client.chat("talker", HI, tools=[WEATHER])
        calls = first.message.tool_calls or []
        assert [call.function.name for call in calls] == ["weather"]
        assert dict(calls[0].function.arguments) == {"town": "word"}
        result = {"role": "tool", "content": "sun", "tool_name": "weather"}
        second = client.chat("talker", [*HI, first.message, result], tools=[WEATHER])
    assert second.message.content
    assert not second.message.tool_calls


def test_a_tool_call_is_streamed(target: Target) -> None:
    with ollama.Client(target.url) as client:
        parts = list(client.chat("talker", HI, tools=[WEATHER], stream=True))
    names = [call.function.name for part in parts for call in part.message.tool_calls or []]
    assert names == ["weather"]
    assert parts[-1].done


def test_an_image_reaches_a_vision_model(target: Target) -> None:
    with ollama.Client(target.url) as client:
        answer = client.chat("seer", [{"role": "user", "content": "What is it?", "images": [PICTURE]}])
    assert answer.message.content
    assert target.fake.inference[-1].json["messages"][0]["images"] == [PICTURE]


def test_thinking_is_separate_from_the_answer(target: Target) -> None:
    with ollama.Client(target.url) as client:
        answer = client.chat("thinker", HI, think=True)
        parts = list(client.chat("thinker", HI, think=True, stream=True))
    assert answer.message.thinking
    assert answer.message.content
    assert "".join(part.message.thinking or "" for part in parts) == answer.message.thinking


def test_json_and_schema_formats(target: Target) -> None:
    with ollama.Client(target.url) as client:
        plain = client.chat("talker", HI, format="json").message.content
        shaped = client.chat("talker", HI, format=PERSON).message.content
    assert isinstance(json.loads(plain or ""), dict)
    assert json.loads(shaped or "").keys() == {"name", "age"}


def test_embed_one_and_many(target: Target) -> None:
    with ollama.Client(target.url) as client:
        one = client.embed("embedder", "a word")
        many = client.embed("embedder", ["a word", "another"], dimensions=8)
        old = client.embeddings("embedder", "a word")
    assert [len(vector) for vector in one.embeddings] == [384]
    assert [len(vector) for vector in many.embeddings] == [8, 8]
    assert list(old.embedding) == pytest.approx(list(one.embeddings[0]))


def test_the_model_lists(target: Target) -> None:
    with ollama.Client(target.url) as client:
        client.chat("talker", HI)
        names = {model.model for model in client.list().models}
        running = {model.model for model in client.ps().models}
    assert names == {"talker:latest", "seer:latest", "thinker:latest", "embedder:latest"}
    if target.kind == "fake":
        # The coordinator lists the models of the last heartbeats.
        assert "talker:latest" in running


def test_show(target: Target) -> None:
    with ollama.Client(target.url) as client:
        shown = client.show("talker")
    assert "completion" in (shown.capabilities or [])
    assert shown.details is not None
    assert shown.details.family == "llama"


def test_models_are_copied_made_and_deleted(target: Target) -> None:
    with ollama.Client(target.url) as client:
        assert client.copy("talker", "copied").status == "success"
        assert client.create("made", from_="talker", system="Be brief.").status == "success"
        assert client.generate("made", "Say hi.").response
        names = {model.model for model in client.list().models}
        assert {"copied:latest", "made:latest"} <= names
        for name in ("copied", "made"):
            assert client.delete(name).status == "success"
        with pytest.raises(ollama.ResponseError) as gone:
            client.show("copied")
        assert gone.value.status_code == 404
        assert {model.model for model in client.list().models} == names - {"copied:latest", "made:latest"}


def assert_not_found(error: ollama.ResponseError) -> None:
    assert error.status_code == 404
    assert "nope" in error.error
    assert "not found" in error.error


def test_an_unknown_model_is_a_404_that_names_it(target: Target) -> None:
    with ollama.Client(target.url) as client:
        with pytest.raises(ollama.ResponseError) as whole:
            client.chat("nope", HI)
        with pytest.raises(ollama.ResponseError) as streamed:
            list(client.chat("nope", HI, stream=True))
        with pytest.raises(ollama.ResponseError) as generated:
            client.generate("nope", "x")
        with pytest.raises(ollama.ResponseError) as embedded:
            client.embed("nope", "x")
        with pytest.raises(ollama.ResponseError) as shown:
            client.show("nope")
    for caught in (whole, streamed, generated, embedded, shown):
        assert_not_found(caught.value)


@pytest.mark.parametrize(
    ("more", "by_engine", "by_coordinator"),
    [
        ({"options": {"num_ctx": "4096"}}, 500, (400,)),
        ({"format": "xml"}, 500, (400, 500, 502)),
        ({"keep_alive": "bogus"}, 400, (400,)),
        ({"think": "huge"}, 400, (400,)),
    ],
)
def test_an_invalid_request_is_refused_with_a_message(
    target: Target, more: dict[str, Any], by_engine: int, by_coordinator: tuple[int, ...]
) -> None:
    with ollama.Client(target.url) as client:
        body = {"model": "talker", "messages": HI, "stream": False, **more}
        with pytest.raises(ollama.ResponseError) as caught:
            client._request(ollama.ChatResponse, "POST", "/api/chat", json=body)
    assert caught.value.status_code in ((by_engine,) if target.kind == "fake" else by_coordinator)
    assert caught.value.error


def test_a_model_without_the_capability_is_refused_with_400(target: Target) -> None:
    with ollama.Client(target.url) as client:
        with pytest.raises(ollama.ResponseError) as tools:
            client.chat("seer", HI, tools=[WEATHER])
        with pytest.raises(ollama.ResponseError) as thinking:
            client.chat("talker", HI, think=True)
    assert (tools.value.status_code, thinking.value.status_code) == (400, 400)
    assert "does not support" in tools.value.error
    assert "does not support" in thinking.value.error


def test_the_async_client(target: Target) -> None:
    async def scenario() -> None:
        async with ollama.AsyncClient(target.url) as client:
            whole = await client.chat("talker", HI, options={"seed": 9})
            parts = [part async for part in await client.chat("talker", HI, options={"seed": 9}, stream=True)]
            assert "".join(part.message.content or "" for part in parts) == whole.message.content
            vectors = (await client.embed("embedder", ["x", "y"])).embeddings
            assert [len(vector) for vector in vectors] == [384, 384]
            assert len((await client.list()).models) == 4
            with pytest.raises(ollama.ResponseError) as caught:
                await client.chat("nope", HI)
            assert_not_found(caught.value)

    asyncio.run(scenario())


def test_concurrent_requests_get_their_own_answers(target: Target) -> None:
    async def scenario() -> None:
        async with ollama.AsyncClient(target.url) as client:

            async def answer(seed: int) -> str:
                return (await client.chat("talker", HI, options={"seed": seed})).message.content or ""

            together = await asyncio.gather(*(answer(seed) for seed in range(24)))
            alone = [await answer(seed) for seed in range(24)]
            assert together == alone
            assert len(set(together)) > 20

    asyncio.run(scenario())


def test_non_ascii_text_survives_both_ways(target: Target) -> None:
    messages = [{"role": "user", "content": "naïve 東京 🙂 <b>&amp;</b>"}]
    with ollama.Client(target.url) as client:
        texts = [client.chat("talker", messages, options={"seed": seed}).message.content or "" for seed in range(6)]
    assert target.fake.inference[-1].json["messages"][0]["content"] == messages[0]["content"]
    assert any(not text.isascii() for text in texts)
