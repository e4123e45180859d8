"""Serves the fake Ollama's /v1/messages in the format of Ollama 0.32."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from fakes.ollama.inference import ApiError, Chunk, EndedEarly, Finish, InferenceRequest, LateError, RunnerLost
from fakes.ollama.models import Json
from fakes.ollama.native import (
    JSON_TYPE,
    PLAIN_JSON_TYPE,
    check_capabilities,
    collected,
    decode,
    encode,
    find,
    send_late,
)

if TYPE_CHECKING:
    from fakes.ollama.request_context import RequestContext

STREAM_HEADERS = [("Cache-Control", "no-cache"), ("Content-Type", "text/event-stream")]
ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
PASSED_OPTIONS = ("temperature", "top_p", "top_k")


class TranslationError(ApiError):
    """An error during the translation of the request; its answer is framed slightly differently."""


def made_id(ctx: RequestContext, prefix: str) -> str:
    return prefix + hashlib.sha256(f"{prefix} {ctx.number}".encode()).hexdigest()[:24]


async def send_error(ctx: RequestContext, error: ApiError) -> None:
    kind = ERROR_TYPES.get(error.status, "api_error")
    body = {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": made_id(ctx, "req_")}
    if isinstance(error, TranslationError):
        await ctx.out.whole(error.status, [JSON_TYPE], encode(body))
    elif isinstance(error, LateError) and ctx.streams:
        ctx.out.extra_first = STREAM_HEADERS[:1]
        await send_late(ctx, error.status, encode(body) + b"\n")
    else:
        await ctx.out.whole(error.status, [PLAIN_JSON_TYPE], encode(body) + b"\n")


def native_messages(body: Json) -> list[Json]:
    system = body.get("system")
    texts = system if isinstance(system, str) else "".join(block.get("text", "") for block in system or [])
    out: list[Json] = [{"role": "system", "content": texts}] if texts else []
    for message in body.get("messages") or []:
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        out += native_blocks(message.get("role", "user"), blocks)
    return out


def native_blocks(role: str, blocks: list[Any]) -> list[Json]:
    """An Anthropic message becomes one native message, and one more for each tool result in it."""
    text = "".join(block.get("text", "") for block in blocks if block.get("type") == "text")
    pictures = [block["source"].get("data", "") for block in blocks if block.get("type") == "image"]
    calls = [
        {"id": block.get("id"), "function": {"name": block.get("name"), "arguments": block.get("input")}}
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    results = [
        {"role": "tool", "content": result_text(block.get("content")), "tool_call_id": block.get("tool_use_id")}
        for block in blocks
        if block.get("type") == "tool_result"
    ]
    own: Json = {"role": role, "content": text}
    own |= {"images": pictures} if pictures else {}
    own |= {"tool_calls": calls} if calls else {}
    return [own, *results] if text or pictures or calls or not results else results


def result_text(content: Any) -> str:
    """Of a list of blocks, the text blocks."""
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content if block.get("type") == "text")
    return content or ""


async def messages(ctx: RequestContext) -> None:
    try:
        body = decode(ctx.request.body, "MessagesRequest", when_empty="EOF")
    except ApiError as error:
        raise TranslationError(error.status, error.message) from error
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] <= 0:
        raise TranslationError(400, "max_tokens is required and must be positive")
    if not body.get("messages"):
        raise TranslationError(400, "messages is required")
    model = find(ctx, body.get("model") or "")
    options = {name: body[name] for name in PASSED_OPTIONS if body.get(name) is not None}
    options |= {"num_predict": body["max_tokens"], "stop": body.get("stop_sequences") or []}
    tools = [
        {"type": "function", "function": {"name": tool["name"], "parameters": tool.get("input_schema")}}
        for tool in body.get("tools") or []
    ]
    thinks = (body.get("thinking") or {}).get("type") == "enabled" and model.can("thinking")
    inference = InferenceRequest(
        model=model, messages=native_messages(body), options=options, tools=tools, think=thinks
    )
    check_capabilities(inference, "chat")
    head: Json = {"id": made_id(ctx, "msg_"), "type": "message", "role": "assistant", "model": ctx.spelled}
    if body.get("stream"):
        await stream(ctx, inference, head)
        return
    whole, finish = await collected(ctx, inference)
    assert finish is not None
    answer = {"content": blocks_of(whole), "stop_reason": reason_of(finish, bool(whole.tool_calls))}
    usage = {"usage": {"input_tokens": finish.prompt_tokens, "output_tokens": finish.tokens}}
    await ctx.out.whole(200, [PLAIN_JSON_TYPE], encode(head | answer | usage) + b"\n")


def blocks_of(whole: Chunk) -> list[Json]:
    blocks: list[Json] = [{"type": "thinking", "thinking": whole.thinking}] if whole.thinking else []
    blocks += [{"type": "text", "text": whole.text}] if whole.text else []
    blocks += [
        {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": call["function"]["arguments"]}
        for call in whole.tool_calls
    ]
    return blocks


def reason_of(finish: Finish, called: bool) -> str:
    return "tool_use" if called else STOP_REASONS[finish.reason]


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + encode({"type": kind, **fields}) + b"\n\n"


class Blocks:
    """Converts chunks into block events. One block is open at a time."""

    def __init__(self) -> None:
        self.index = -1
        self.open_kind = ""
        self.called = False

    def events(self, chunk: Chunk) -> list[bytes]:
        if chunk.tool_calls:
            return [made for call in chunk.tool_calls for made in self._tool(call)]
        kind, text = ("thinking", chunk.thinking) if chunk.thinking else ("text", chunk.text)
        out: list[bytes] = []
        if self.open_kind != kind:
            out += self.close()
            self.index += 1
            self.open_kind = kind
            out.append(event("content_block_start", index=self.index, content_block={"type": kind, kind: ""}))
        delta = {"type": f"{kind}_delta", kind: text}
        return [*out, event("content_block_delta", index=self.index, delta=delta)]

    def _tool(self, call: Json) -> list[bytes]:
        out = self.close()
        self.index += 1
        self.called = True
        block = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}}
        arguments = json.dumps(call["function"]["arguments"], separators=(",", ":"))
        delta = {"type": "input_json_delta", "partial_json": arguments}
        return [
            *out,
            event("content_block_start", index=self.index, content_block=block),
            event("content_block_delta", index=self.index, delta=delta),
            event("content_block_stop", index=self.index),
        ]

    def close(self) -> list[bytes]:
        if not self.open_kind:
            return []
        self.open_kind = ""
        return [event("content_block_stop", index=self.index)]


async def stream(ctx: RequestContext, inference: InferenceRequest, head: Json) -> None:
    """Sends each event as one HTTP chunk. A lost runner ends the stream without `message_stop`."""
    blocks, began = Blocks(), False
    ctx.streams = True
    guess = sum(len(str(message.get("content") or "")) for message in inference.messages) // 4 + 1
    try:
        async with ctx.generation(inference) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    await ctx.out.begin(200, STREAM_HEADERS)
                    usage = {"input_tokens": guess, "output_tokens": 0}
                    await ctx.out.chunk(event("message_start", message=head | {"content": [], "usage": usage}))
                if isinstance(chunk, Finish):
                    await ending(ctx, blocks, chunk)
                    break
                for made in blocks.events(chunk):
                    await ctx.out.chunk(made)
    except RunnerLost as lost:
        if not began:
            raise LateError(500, str(lost)) from lost
    except EndedEarly:
        if not began:
            await ctx.out.begin(200, STREAM_HEADERS)
    await ctx.out.end()


async def ending(ctx: RequestContext, blocks: Blocks, finish: Finish) -> None:
    for made in blocks.close():
        await ctx.out.chunk(made)
    usage = {"input_tokens": finish.prompt_tokens, "output_tokens": finish.tokens}
    delta = {"stop_reason": reason_of(finish, blocks.called)}
    await ctx.out.chunk(event("message_delta", delta=delta, usage=usage))
    await ctx.out.chunk(event("message_stop"))
