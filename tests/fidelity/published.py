"""Builds requests from what clients send: recorded bodies of agents, and every published part, item and tool."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anthropic.types.beta import BetaContentBlockParam, BetaToolUnionParam, beta_tool_result_block_param
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionToolUnionParam
from openai.types.responses import ToolParam, response_input_param

from fakes.sdk_samples import members, sample_of
from fidelity.corpus import ENDPOINTS, Endpoint, Json, Sample
from fidelity.field_values import CALLED, CHAT_TOOL, FLAT_TOOL, PERSON, PIXEL

BODIES = Path(__file__).parent.parent / "fakes" / "agent_bodies"
LIMITS = ("max_tokens", "max_output_tokens", "max_completion_tokens")
ASK = {"role": "user", "content": "Say hi."}
IMAGE = {"url": f"data:image/png;base64,{PIXEL}"}


def endpoint_of(path: str) -> Endpoint:
    return next(endpoint for endpoint in ENDPOINTS if endpoint.path == path)


def agent_bodies() -> Iterator[Sample]:
    """The requests of real agents and of Open WebUI, with a short limit, streamed and not."""
    paths = {endpoint.path for endpoint in ENDPOINTS}
    for file in sorted(BODIES.glob("*.json")):
        recorded = json.loads(file.read_text("utf-8"))
        for request in recorded.get("requests", [recorded]):
            if request["path"] in paths and isinstance(request["body"], dict):
                yield from _limited(request["path"], request["body"], f"{file.stem} {request.get('name', '')}".strip())


def _limited(path: str, recorded: Json, name: str) -> Iterator[Sample]:
    endpoint = endpoint_of(path)
    body: Json = {name: value for name, value in recorded.items() if name != "model"}
    body |= {name: value for name, value in endpoint.base.items() if name in (*LIMITS, "temperature", "options")}
    for streams in (False, True) if endpoint.can_stream else (False,):
        yield Sample(endpoint, body | ({"stream": streams} if endpoint.can_stream else {}), (name,))


def published_parts() -> Iterator[Sample]:
    """Every published content block, input item and tool, with its required fields and with all fields."""
    for is_complete in (False, True):
        yield from _messages(is_complete)
        yield from _chats(is_complete)
        yield from _responses(is_complete)


def images() -> Iterator[Sample]:
    """The same image in every API, in a message and in the result of a tool."""
    parts = {"type": "image_url", "image_url": IMAGE}
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    shown = {"type": "image", "source": source}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [shown]}
    called = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    item = {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE["url"]}]}
    yield _sample("/v1/chat/completions", {"messages": [{"role": "user", "content": [parts]}]}, "an image")
    yield _sample("/v1/messages", {"messages": [{"role": "user", "content": [shown]}]}, "an image")
    history = [ASK, {"role": "assistant", "content": [called]}, {"role": "user", "content": [result]}]
    yield _sample("/v1/messages", {"messages": history}, "an image in a result")
    yield _sample("/v1/responses", {"input": [item]}, "an image")
    yield _sample("/api/chat", {"messages": [ASK | {"images": [PIXEL]}]}, "an image")
    yield _sample("/api/generate", {"images": [PIXEL]}, "an image")


def schemas() -> Iterator[Sample]:
    """The same schema in every form in which clients send it, streamed and not."""
    form = {"type": "json_schema", "schema": PERSON}
    named = form | {"name": "person", "strict": True}
    nested = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    forms: list[tuple[str, Json]] = [
        ("/v1/messages", {"output_config": {"format": form}}),
        ("/v1/messages", {"output_format": form}),
        ("/v1/responses", {"text": {"format": named}}),
        ("/v1/chat/completions", {"response_format": nested}),
        ("/v1/chat/completions", {"response_format": form}),
        ("/v1/chat/completions", {"response_format": {"type": "json_object", "schema": PERSON}}),
        ("/api/chat", {"format": PERSON}),
        ("/api/generate", {"format": PERSON}),
    ]
    for path, fields in forms:
        endpoint = endpoint_of(path)
        for streams in (False, True):
            yield Sample(endpoint, {**endpoint.base, **fields, "stream": streams}, tuple(fields))


def _messages(is_complete: bool) -> Iterator[Sample]:
    end = {"type": "text", "text": "Say hi."}
    blocks = [*members(BetaContentBlockParam), *members(beta_tool_result_block_param.Content)]
    for published in blocks:
        block, name = sample_of(published, is_complete), published.__name__
        yield _sample("/v1/messages", {"messages": [{"role": "user", "content": [block, end]}]}, name)
        result = {"type": "tool_result", "tool_use_id": "t1", "content": [block]}
        yield _sample("/v1/messages", {"messages": [{"role": "user", "content": [result, end]}]}, f"result {name}")
    for published in members(BetaToolUnionParam):
        tool = sample_of(published, is_complete) | {"defer_loading": False}
        yield _sample("/v1/messages", {"tools": [tool]}, published.__name__)


def _chats(is_complete: bool) -> Iterator[Sample]:
    for published in members(ChatCompletionContentPartParam):
        part = sample_of(published, is_complete)
        yield _sample("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}, published.__name__)
    for published in members(ChatCompletionToolUnionParam):
        tool = sample_of(published, is_complete)
        yield _sample("/v1/chat/completions", {"tools": [tool, CHAT_TOOL]}, published.__name__)
        yield _sample("/v1/chat/completions", {"tools": [tool], "messages": CALLED}, published.__name__)


def _responses(is_complete: bool) -> Iterator[Sample]:
    for published in members(response_input_param.ResponseInputItemParam):
        item = sample_of(published, is_complete)
        yield _sample("/v1/responses", {"input": [item, ASK]}, published.__name__)
    for published in members(ToolParam):
        tool = sample_of(published, is_complete)
        yield _sample("/v1/responses", {"tools": [tool, FLAT_TOOL]}, published.__name__)


def _sample(path: str, fields: Json, name: str) -> Sample:
    endpoint = endpoint_of(path)
    body: dict[str, Any] = {**endpoint.base, **fields, "stream": len(name) % 2 == 0}
    return Sample(endpoint, body, (name,))
