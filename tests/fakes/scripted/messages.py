"""Reads and answers requests to /v1/messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fakes.scripted.chat import Refused, event, fragments
from fakes.scripted.task import Call, Json, Move, OfferedTool, Seen, Turn, text_pieces


def read(body: Json) -> Seen:
    """Raises `Refused` for a request that the published API does not allow. Unknown blocks are left out."""
    if not isinstance(body.get("max_tokens"), int):
        raise Refused("max_tokens: Field required")
    system = plain_text(body.get("system"))
    turns = [Turn(role="system", text=system)] if system else []
    for message in body.get("messages") or []:
        if message.get("role") not in ("user", "assistant", "system"):
            raise Refused(f"messages: unexpected role {message.get('role')!r}")
        turns += read_message(message)
    tools = [
        OfferedTool(tool["name"], schema=tool["input_schema"])
        for tool in body.get("tools") or []
        if "input_schema" in tool
    ]
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    must_call = (body.get("tool_choice") or {}).get("type") in ("any", "tool")
    return Seen(turns=turns, tools=tools, schema=wanted.get("schema"), must_call=must_call)


def read_message(message: Json) -> list[Turn]:
    """One turn for each tool result, and one for the rest."""
    content = message.get("content")
    blocks: list[Json] = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    results = [
        Turn(role="tool", text=plain_text(block.get("content")), call_id=block["tool_use_id"])
        for block in blocks
        if block["type"] == "tool_result"
    ]
    calls = tuple(
        Call(id=block["id"], name=block["name"], arguments=block["input"])
        for block in blocks
        if block["type"] == "tool_use"
    )
    text = plain_text([block for block in blocks if block["type"] == "text"])
    own = [Turn(role=message["role"], text=text, calls=calls)] if text or calls else []
    return [*results, *own]


def plain_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.get("text", "") for block in content)


def usage(size: int, output_tokens: int) -> Json:
    none = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": size // 4, "output_tokens": output_tokens} | none


def head(body: Json, move: Move, content: list[Json], reason: str | None, used: Json) -> Json:
    top = {"id": f"msg_{move.number}", "type": "message", "role": "assistant", "model": body["model"]}
    return top | {"content": content, "stop_reason": reason, "stop_sequence": None, "usage": used}


def stop_reason(move: Move) -> str:
    return "tool_use" if move.calls else "end_turn"


def thinks(body: Json) -> bool:
    return (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")


def blocks_of(body: Json, move: Move) -> list[Json]:
    blocks: list[Json] = []
    if move.thinking and thinks(body):
        blocks.append({"type": "thinking", "thinking": move.thinking, "signature": "c2lnbmVk"})
    if move.text:
        blocks.append({"type": "text", "text": move.text})
    for call in move.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    return blocks


def whole(body: Json, move: Move, size: int) -> Json:
    return head(body, move, blocks_of(body, move), stop_reason(move), usage(size, 12))


def stream(body: Json, move: Move, size: int) -> Iterator[bytes]:
    yield event({"type": "message_start", "message": head(body, move, [], None, usage(size, 1))}, "message_start")
    yield event({"type": "ping"}, "ping")
    for index, block in enumerate(blocks_of(body, move)):
        empty = block | EMPTY[block["type"]]
        yield part("content_block_start", index, content_block=empty)
        for delta in deltas(block, move):
            yield part("content_block_delta", index, delta=delta)
        yield part("content_block_stop", index)
    ending = {"stop_reason": stop_reason(move), "stop_sequence": None}
    yield event({"type": "message_delta", "delta": ending, "usage": usage(size, 12)}, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


EMPTY: dict[str, Json] = {
    "text": {"text": ""},
    "tool_use": {"input": {}},
    "thinking": {"thinking": "", "signature": ""},
}


def part(kind: str, index: int, **fields: Any) -> bytes:
    return event({"type": kind, "index": index, **fields}, kind)


def deltas(block: Json, move: Move) -> Iterator[Json]:
    if block["type"] == "text":
        yield from ({"type": "text_delta", "text": piece} for piece in text_pieces(block["text"]))
    elif block["type"] == "thinking":
        yield from ({"type": "thinking_delta", "thinking": piece} for piece in text_pieces(block["thinking"]))
        yield {"type": "signature_delta", "signature": block["signature"]}
    else:
        (call,) = (call for call in move.calls if call.id == block["id"])
        for piece in fragments(call.arguments_json):
            yield {"type": "input_json_delta", "partial_json": piece}
