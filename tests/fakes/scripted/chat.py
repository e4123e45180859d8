"""Reads and answers requests to /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fakes.scripted.task import Call, Json, Move, OfferedTool, Seen, Turn, text_pieces

ROLES = ("system", "user", "assistant", "tool")


class Refused(Exception):
    """The request is not valid for this engine; `status` 400."""


def read(body: Json) -> Seen:
    """Raises `Refused` as strict servers and templates do: only known roles, one system message, at the start."""
    turns = [read_message(message) for message in body.get("messages") or []]
    if not turns:
        raise Refused("messages must not be empty")
    if any(turn.role == "system" for turn in turns[1:]):
        raise Refused("System message must be at the beginning.")
    tools = [read_tool(tool) for tool in body.get("tools") or []]
    must_call = body.get("tool_choice") not in (None, "auto", "none")
    return Seen(turns=turns, tools=tools, schema=read_schema(body), must_call=must_call)


def read_message(message: Json) -> Turn:
    role = message.get("role")
    if role not in ROLES:
        raise Refused(f"Unexpected message role {role!r}.")
    calls = tuple(read_call(call) for call in message.get("tool_calls") or [])
    return Turn(
        role=role, text=plain_text(message.get("content")), calls=calls, call_id=message.get("tool_call_id", "")
    )


def read_call(call: Json) -> Call:
    if call.get("type") != "function":
        raise Refused("Only function calls are supported.")
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError as error:
        raise Refused(f"The arguments of {function['name']} are no JSON.") from error
    return Call(id=call["id"], name=function["name"], arguments=arguments)


def plain_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part.get("type") not in ("text", "image_url") for part in content):
        raise Refused(f"Unknown part type in {[part.get('type') for part in content]}.")
    return "".join(part.get("text", "") for part in content)


def read_tool(tool: Json) -> OfferedTool:
    if tool.get("type") != "function":
        raise Refused(f"Unsupported tool type {tool.get('type')!r}.")
    return OfferedTool(tool["function"]["name"], schema=tool["function"].get("parameters") or {})


def read_schema(body: Json) -> Json | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = wanted["json_schema"]["schema"]
        assert isinstance(schema, dict)
        return schema
    return {} if wanted.get("type") == "json_object" else None


def head(body: Json, move: Move, kind: str) -> Json:
    return {"id": f"chatcmpl-{move.number}", "object": kind, "created": 1_795_425_116, "model": body["model"]}


def usage(seen_bytes: int) -> Json:
    prompt = seen_bytes // 4
    return {"prompt_tokens": prompt, "completion_tokens": 12, "total_tokens": prompt + 12}


def finish_reason(move: Move) -> str:
    return "tool_calls" if move.calls else "stop"


def written_call(call: Call) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}


def whole(body: Json, move: Move, size: int) -> Json:
    message: Json = {"role": "assistant", "content": move.text, "reasoning_content": move.thinking or None}
    if move.calls:
        message["tool_calls"] = [written_call(call) for call in move.calls]
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(move)}
    return head(body, move, "chat.completion") | {"choices": [choice], "usage": usage(size)}


def stream(body: Json, move: Move, size: int) -> Iterator[bytes]:
    """The events of a streamed answer; arguments come in fragments."""
    top = head(body, move, "chat.completion.chunk")
    for delta in deltas(move):
        yield event(top | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield event(top | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason(move)}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event(top | {"choices": [], "usage": usage(size)})
    yield b"data: [DONE]\n\n"


def deltas(move: Move) -> Iterator[Json]:
    yield {"role": "assistant", "content": ""}
    for piece in text_pieces(move.thinking):
        yield {"reasoning_content": piece}
    for piece in text_pieces(move.text):
        yield {"content": piece}
    for index, call in enumerate(move.calls):
        yield {"tool_calls": [{"index": index, **written_call(call), "function": {"name": call.name, "arguments": ""}}]}
        for piece in fragments(call.arguments_json):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def fragments(text: str) -> Iterator[str]:
    """Pieces of a text that separate escapes and names."""
    for start in range(0, len(text), 7):
        yield text[start : start + 7]


def event(value: Json, kind: str = "") -> bytes:
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
