"""Reads and answers requests to /v1/responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fakes.scripted.chat import Refused, event, fragments
from fakes.scripted.task import Call, Json, Move, OfferedTool, Seen, Turn, text_pieces

CALLS = ("function_call", "custom_tool_call")
RESULTS = ("function_call_output", "custom_tool_call_output")


def read(body: Json) -> Seen:
    """Raises `Refused` for unknown input items. Hosted tools are not offered to the model."""
    turns = [Turn(role="system", text=body["instructions"])] if body.get("instructions") else []
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    for item in items:
        turns += read_item(item)
    wanted = (body.get("text") or {}).get("format") or {}
    schema = wanted.get("schema") if wanted.get("type") == "json_schema" else None
    return Seen(turns=turns, tools=list(read_tools(body.get("tools") or [])), schema=schema)


def read_tools(tools: list[Json], namespace: str = "") -> Iterator[OfferedTool]:
    for tool in tools:
        if tool["type"] in ("function", "custom"):
            yield OfferedTool(tool["name"], tool["type"] == "custom", namespace, tool.get("parameters") or {})
        elif tool["type"] == "namespace":
            yield from read_tools(tool["tools"], tool["name"])


def read_item(item: Json) -> list[Turn]:
    kind = item.get("type", "message")
    if kind == "message":
        role = "system" if item["role"] == "developer" else item["role"]
        return [Turn(role=role, text=plain_text(item.get("content")))]
    if kind in CALLS:
        is_custom = kind == "custom_tool_call"
        arguments = {} if is_custom else json.loads(item["arguments"])
        text = item["input"] if is_custom else None
        return [
            Turn(role="assistant", calls=(Call(id=item["call_id"], name=item["name"], arguments=arguments, text=text),))
        ]
    if kind in RESULTS:
        return [Turn(role="tool", text=plain_text(item.get("output")), call_id=item["call_id"])]
    if kind == "reasoning":
        return []
    raise Refused(f"unknown input item type {kind!r}")


def plain_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.get("text", "") for part in content)


def usage(size: int) -> Json:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 4}}
    return {"input_tokens": size // 4, "output_tokens": 12, "total_tokens": size // 4 + 12} | details


def response(body: Json, move: Move, status: str, output: list[Json], used: Json | None) -> Json:
    echoed = {
        name: body.get(name) for name in ("instructions", "metadata", "temperature", "top_p", "max_output_tokens")
    }
    top = {
        "id": f"resp_{move.number}",
        "object": "response",
        "created_at": 1_795_425_116,
        "status": status,
        "model": body["model"],
    }
    rest = {"error": None, "incomplete_details": None, "output": output, "usage": used}
    tools = {"tools": body.get("tools") or [], "tool_choice": body.get("tool_choice") or "auto"}
    return top | echoed | rest | tools | {"parallel_tool_calls": True, "text": body.get("text") or {}}


def items_of(move: Move) -> list[Json]:
    items: list[Json] = []
    if move.thinking:
        summary = [{"type": "summary_text", "text": move.thinking}]
        items.append({"id": f"rs_{move.number}", "type": "reasoning", "summary": summary})
    if move.text:
        content = [{"type": "output_text", "text": move.text, "annotations": [], "logprobs": []}]
        items.append(
            {
                "id": f"msg_{move.number}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": content,
            }
        )
    return items + [call_item(call) for call in move.calls]


def call_item(call: Call) -> Json:
    named = {"id": f"item_{call.id}", "call_id": call.id, "name": call.name, "status": "completed"}
    if call.text is not None:
        return {"type": "custom_tool_call", **named, "input": call.text}
    named |= {"namespace": call.namespace} if call.namespace else {}
    return {"type": "function_call", **named, "arguments": call.arguments_json}


def whole(body: Json, move: Move, size: int) -> Json:
    return response(body, move, "completed", items_of(move), usage(size))


def stream(body: Json, move: Move, size: int) -> Iterator[bytes]:
    for number, fields in enumerate(events(body, move, size)):
        yield event(fields | {"sequence_number": number}, fields["type"])


def events(body: Json, move: Move, size: int) -> Iterator[Json]:
    for kind in ("response.created", "response.in_progress"):
        yield {"type": kind, "response": response(body, move, "in_progress", [], None)}
    items = items_of(move)
    for index, item in enumerate(items):
        yield from item_events(item, {"output_index": index, "item_id": item["id"]})
    yield {"type": "response.completed", "response": response(body, move, "completed", items, usage(size))}


EMPTY: dict[str, Json] = {
    "reasoning": {"summary": []},
    "message": {"content": [], "status": "in_progress"},
    "function_call": {"arguments": "", "status": "in_progress"},
    "custom_tool_call": {"input": "", "status": "in_progress"},
}


def item_events(item: Json, where: Json) -> Iterator[Json]:
    index = {"output_index": where["output_index"]}
    yield {"type": "response.output_item.added", "item": item | EMPTY[item["type"]]} | index
    yield from CONTENT[item["type"]](item, where)
    yield {"type": "response.output_item.done", "item": item} | index


def message_events(item: Json, where: Json) -> Iterator[Json]:
    (part,) = item["content"]
    where = where | {"content_index": 0}
    yield {"type": "response.content_part.added", "part": part | {"text": ""}} | where
    for piece in text_pieces(part["text"]):
        yield {"type": "response.output_text.delta", "delta": piece, "logprobs": []} | where
    yield {"type": "response.output_text.done", "text": part["text"], "logprobs": []} | where
    yield {"type": "response.content_part.done", "part": part} | where


def reasoning_events(item: Json, where: Json) -> Iterator[Json]:
    (part,) = item["summary"]
    where = where | {"summary_index": 0}
    yield {"type": "response.reasoning_summary_part.added", "part": part | {"text": ""}} | where
    for piece in text_pieces(part["text"]):
        yield {"type": "response.reasoning_summary_text.delta", "delta": piece} | where
    yield {"type": "response.reasoning_summary_text.done", "text": part["text"]} | where
    yield {"type": "response.reasoning_summary_part.done", "part": part} | where


def function_events(item: Json, where: Json) -> Iterator[Json]:
    for piece in fragments(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", "delta": piece} | where
    arguments = {"arguments": item["arguments"], "name": item["name"]}
    yield {"type": "response.function_call_arguments.done"} | arguments | where


def custom_events(item: Json, where: Json) -> Iterator[Json]:
    for piece in fragments(item["input"]):
        yield {"type": "response.custom_tool_call_input.delta", "delta": piece} | where
    yield {"type": "response.custom_tool_call_input.done", "input": item["input"]} | where


CONTENT = {
    "message": message_events,
    "reasoning": reasoning_events,
    "function_call": function_events,
    "custom_tool_call": custom_events,
}
