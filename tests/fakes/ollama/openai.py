"""Serves the fake Ollama's OpenAI-compatible /v1 routes in the format of Ollama 0.32."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

from fakes.ollama.inference import ApiError, Chunk, EndedEarly, Finish, InferenceRequest, LateError, RunnerLost
from fakes.ollama.models import Json, full_name, openai_model
from fakes.ollama.native import (
    JSON_TYPE,
    PLAIN_JSON_TYPE,
    check_capabilities,
    check_suffix,
    collected,
    decode,
    embed_texts,
    encode,
    find,
    send_late,
    vectors,
)

if TYPE_CHECKING:
    from fakes.ollama.request_context import RequestContext

EVENT_STREAM = ("Content-Type", "text/event-stream")
FINGERPRINT = "fp_ollama"
PASSED_OPTIONS = ("seed", "top_p", "temperature", "frequency_penalty", "presence_penalty")
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "ultra", "max", "none")
ERROR_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


class TranslationError(ApiError):
    """An error during the translation of the request; the real server frames its answer slightly differently."""


def error_body(status: int, message: str) -> Json:
    kind = ERROR_TYPES.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def send_error(ctx: RequestContext, error: ApiError) -> None:
    if isinstance(error, TranslationError):
        await ctx.out.whole(error.status, [JSON_TYPE], encode(error_body(error.status, error.message)))
    elif isinstance(error, LateError) and ctx.streams:
        await send_late(ctx, error.status, encode(error_body(error.status, error.message)) + b"\n")
    else:
        await send_json(ctx, error_body(error.status, error.message), error.status)


async def send_json(ctx: RequestContext, value: Json, status: int = 200) -> None:
    """Sends JSON with a trailing line break."""
    await ctx.out.whole(status, [PLAIN_JSON_TYPE], encode(value) + b"\n")


def read(ctx: RequestContext, struct_name: str) -> Json:
    try:
        return decode(ctx.request.body, struct_name, when_empty="EOF")
    except ApiError as error:
        raise TranslationError(error.status, error.message) from error


def native_message(message: Json) -> Json:
    """One message in native form. Raises `TranslationError` for unsupported content."""
    content, out = message.get("content"), {"role": message.get("role", "user")}
    if "tool_call_id" in message:
        out["tool_call_id"] = message["tool_call_id"]
    if isinstance(content, str) or content is None:
        return (
            out
            | {"content": content or ""}
            | ({"tool_calls": message["tool_calls"]} if "tool_calls" in message else {})
        )
    if not isinstance(content, list):
        kind = "float64" if isinstance(content, int | float) else type(content).__name__
        raise TranslationError(400, f"invalid message content type: {kind}")
    texts = [part.get("text", "") for part in content if part.get("type") == "text"]
    pictures = [picture(part) for part in content if part.get("type") == "image_url"]
    return out | {"content": "".join(texts), "images": pictures}


def picture(part: Json) -> str:
    url = part.get("image_url")
    address = url.get("url", "") if isinstance(url, dict) else str(url)
    if address.startswith(("http://", "https://")):
        raise TranslationError(400, "image URLs are not currently supported, please use base64 encoded data instead")
    if not address.startswith("data:") or "," not in address:
        raise TranslationError(400, "invalid image input")
    return address.split(",", 1)[1]


def options_of(body: Json) -> Json:
    options = {name: body[name] for name in PASSED_OPTIONS if body.get(name) is not None}
    if body.get("max_tokens") is not None:
        options["num_predict"] = body["max_tokens"]
    stop = body.get("stop")
    if stop:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    return options


def effort(body: Json) -> bool:
    """Whether the model is asked to think; an object `reasoning` counts before `reasoning_effort`.

    Raises `TranslationError` for an unknown level. A model that cannot think is refused later.
    """
    nested = body.get("reasoning")
    level = nested.get("effort") if isinstance(nested, dict) else body.get("reasoning_effort")
    if level and level not in EFFORTS:
        listed = ", ".join(f'"{known}"' for known in EFFORTS[:-1])
        raise TranslationError(400, f'invalid reasoning value: "{level}" (must be {listed}, or "{EFFORTS[-1]}")')
    return level not in (None, "", "none")


def format_of(body: Json) -> Any:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return wanted.get("json_schema", {}).get("schema")
    return "json" if wanted.get("type") == "json_object" else None


async def chat_completions(ctx: RequestContext) -> None:
    body = read(ctx, "ChatCompletionRequest")
    messages = body.get("messages") or []
    if not messages:
        raise TranslationError(400, "[] is too short - 'messages'")
    native = [native_message(message) for message in messages]
    model = find(ctx, body.get("model") or "")
    inference = InferenceRequest(
        model=model,
        messages=native,
        options=options_of(body),
        tools=body.get("tools") or [],
        format=format_of(body),
        think=effort(body),
    )
    check_capabilities(inference, "chat")
    number = ctx.number % 999
    head: Json = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": ctx.created_unix_s()}
    head |= {"model": ctx.spelled, "system_fingerprint": FINGERPRINT}
    if body.get("stream"):
        chunk = head | {"object": "chat.completion.chunk"}
        await chat_stream(ctx, inference, chunk, bool((body.get("stream_options") or {}).get("include_usage")))
        return
    whole, finish = await collected(ctx, inference)
    assert finish is not None
    choice = {"index": 0, "message": message_of(whole), "finish_reason": reason_of(whole, finish)}
    await send_json(ctx, head | {"choices": [choice], "usage": usage_of(finish)})


def message_of(whole: Chunk) -> Json:
    message: Json = {"role": "assistant", "content": whole.text}
    if whole.thinking:
        message["reasoning"] = whole.thinking
    if whole.tool_calls:
        message["tool_calls"] = [openai_call(call) for call in whole.tool_calls]
    return message


def openai_call(call: Json) -> Json:
    function = call["function"]
    arguments = json.dumps(function["arguments"], separators=(",", ":"))
    named = {"name": function["name"], "arguments": arguments}
    return {"id": call["id"], "index": function["index"], "type": "function", "function": named}


def reason_of(whole: Chunk, finish: Finish) -> str:
    return "tool_calls" if whole.tool_calls else finish.reason


def usage_of(finish: Finish) -> Json:
    total = finish.prompt_tokens + finish.tokens
    return {"prompt_tokens": finish.prompt_tokens, "completion_tokens": finish.tokens, "total_tokens": total}


async def chat_stream(ctx: RequestContext, inference: InferenceRequest, head: Json, with_usage: bool) -> None:
    """Sends the role with the first delta, and the end, the usage and [DONE] in one chunk."""
    first, called, began = True, False, False
    ctx.streams = True
    try:
        async with ctx.generation(inference) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    await ctx.out.begin(200, [EVENT_STREAM])
                if isinstance(chunk, Finish):
                    await ctx.out.chunk(chat_ending(head, chunk, called, with_usage))
                    break
                delta = delta_of(chunk, first)
                called, first = called or bool(chunk.tool_calls), False
                choice = {"index": 0, "delta": delta, "finish_reason": None}
                await ctx.out.chunk(event(head | {"choices": [choice]}))
    except RunnerLost as lost:
        if not began:
            raise LateError(500, str(lost)) from lost
        # The real server converts the error line to one more chunk without model and text, and ends the stream.
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
        await ctx.out.chunk(event(head | {"model": "", "choices": [choice]}))
    except EndedEarly:
        if not began:
            await ctx.out.begin(200, [EVENT_STREAM])
    await ctx.out.end()


def event(value: Json) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def delta_of(chunk: Chunk, first: bool) -> Json:
    delta: Json = {"role": "assistant"} if first else {}
    delta["content"] = chunk.text
    if chunk.thinking:
        delta["reasoning"] = chunk.thinking
    if chunk.tool_calls:
        delta["tool_calls"] = [openai_call(call) for call in chunk.tool_calls]
    return delta


def chat_ending(head: Json, finish: Finish, called: bool, with_usage: bool) -> bytes:
    reason = "tool_calls" if called else finish.reason
    last = event(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = event(head | {"choices": [], "usage": usage_of(finish)}) if with_usage else b""
    return last + usage + b"data: [DONE]\n\n"


async def completions(ctx: RequestContext) -> None:
    body = read(ctx, "CompletionRequest")
    model = find(ctx, body.get("model") or "")
    check_suffix(model, body)
    inference = InferenceRequest(
        model=model, messages=[{"role": "user", "content": body.get("prompt") or ""}], options=options_of(body)
    )
    check_capabilities(inference, "generate")
    head: Json = {"id": f"cmpl-{ctx.number % 999}", "object": "text_completion", "created": ctx.created_unix_s()}
    named: Json = {"model": ctx.spelled, "system_fingerprint": FINGERPRINT}
    if body.get("stream"):
        await completion_stream(
            ctx, inference, head, named, bool((body.get("stream_options") or {}).get("include_usage"))
        )
        return
    whole, finish = await collected(ctx, inference)
    assert finish is not None
    choice = {"text": whole.text, "index": 0, "finish_reason": finish.reason}
    await send_json(ctx, head | named | {"choices": [choice], "usage": usage_of(finish)})


async def completion_stream(
    ctx: RequestContext, inference: InferenceRequest, head: Json, named: Json, with_usage: bool
) -> None:
    began = False
    ctx.streams = True
    none_yet: Json = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}} if with_usage else {}
    try:
        async with ctx.generation(inference) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    await ctx.out.begin(200, [EVENT_STREAM])
                reason = chunk.reason if isinstance(chunk, Finish) else None
                text = "" if isinstance(chunk, Finish) else chunk.text
                choice = {"text": text, "index": 0, "finish_reason": reason}
                line = event(head | {"choices": [choice]} | named | none_yet)
                if isinstance(chunk, Finish):
                    usage = event(head | {"choices": []} | named | {"usage": usage_of(chunk)}) if with_usage else b""
                    line += usage + b"data: [DONE]\n\n"
                await ctx.out.chunk(line)
    except RunnerLost as lost:
        if not began:
            raise LateError(500, str(lost)) from lost
    await ctx.out.end()


async def embeddings(ctx: RequestContext) -> None:
    body = read(ctx, "EmbedRequest")
    if body.get("input") in (None, "", []):
        raise TranslationError(400, "invalid input")
    made, tokens = await vectors(ctx, body, embed_texts(body["input"]), 'model "{}" not found, try pulling it first')
    in_base64 = body.get("encoding_format") == "base64"
    entries = [
        {"object": "embedding", "embedding": in_bytes(vector) if in_base64 else vector, "index": index}
        for index, vector in enumerate(made)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    await send_json(ctx, {"object": "list", "data": entries, "model": ctx.spelled, "usage": usage})


def in_bytes(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def models(ctx: RequestContext) -> None:
    newest = sorted(ctx.fake.models.values(), key=lambda model: -int(model.modified_at))
    await send_json(ctx, {"object": "list", "data": [openai_model(model) for model in newest]})


async def model(ctx: RequestContext) -> None:
    name = ctx.request.path.removeprefix("/v1/models/")
    found = ctx.fake.models.get(full_name(name))
    if found is None:
        raise ApiError(404, f"model '{full_name(name)}' not found")
    await send_json(ctx, openai_model(found))
