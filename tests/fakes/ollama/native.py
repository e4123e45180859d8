"""Serves the fake Ollama's /api routes in the format of Ollama 0.32."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fakes.generated_text import count_tokens, embedding
from fakes.ollama.inference import (
    ApiError,
    Chunk,
    EndedEarly,
    Finish,
    InferenceRequest,
    LateError,
    RunnerLost,
    check_options,
    duration_s,
)
from fakes.ollama.models import FakeModel, Json, full_name, rendered, running, shown, tag

if TYPE_CHECKING:
    from fakes.ollama.request_context import RequestContext

JSON_TYPE = ("Content-Type", "application/json; charset=utf-8")
PLAIN_JSON_TYPE = ("Content-Type", "application/json")
NDJSON_TYPE = ("Content-Type", "application/x-ndjson")
CHUNKED_FROM_BYTES = 2048
"""Go sends a body of unknown length in chunks if it is larger than its buffer."""
NAME = re.compile(r"^[A-Za-z0-9][\w.\-/]*(:[\w.\-]+)?$")
TYPES: dict[str, dict[str, tuple[type | tuple[type, ...], str]]] = {
    "ChatRequest": {
        "model": (str, "string"),
        "messages": (list, "[]api.Message"),
        "stream": (bool, "bool"),
        "options": (dict, "map[string]interface {}"),
        "tools": (list, "api.Tools"),
        "top_logprobs": (int, "int"),
    },
    "GenerateRequest": {
        "model": (str, "string"),
        "prompt": (str, "string"),
        "suffix": (str, "string"),
        "system": (str, "string"),
        "stream": (bool, "bool"),
        "raw": (bool, "bool"),
        "options": (dict, "map[string]interface {}"),
    },
    "EmbedRequest": {"model": (str, "string"), "options": (dict, "map[string]interface {}")},
    "EmbeddingRequest": {"model": (str, "string"), "prompt": (str, "string")},
}
GO_KINDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}


def encode(value: Any) -> bytes:
    """JSON in Go's format: without spaces, and with escapes only for the three HTML characters."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").encode()


def decode(body: bytes, struct: str, when_empty: str = "missing request body") -> Json:
    """The request's JSON. Raises `ApiError` 400 with Go's message."""
    if not body.strip():
        raise ApiError(400, when_empty)
    try:
        value = json.loads(body)
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg:
            raise ApiError(400, "unexpected EOF") from error
        where = "object key string" if "property name" in error.msg else "value"
        raise ApiError(400, f"invalid character '{error.doc[error.pos]}' looking for beginning of {where}") from error
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid UTF-8") from error
    if not isinstance(value, dict):
        kind = GO_KINDS.get(type(value), "null")
        raise ApiError(400, f"json: cannot unmarshal {kind} into Go value of type api.{struct}")
    for name, (wanted, go_type) in TYPES.get(struct, {}).items():
        given = value.get(name)
        if given is not None and (not isinstance(given, wanted) or (wanted is not bool and isinstance(given, bool))):
            where = f"Go struct field {struct}.{name} of type {go_type}"
            raise ApiError(400, f"json: cannot unmarshal {GO_KINDS[type(given)]} into {where}")
    return value


def find(ctx: RequestContext, name: str, text: str = "model '{}' not found") -> FakeModel:
    """The model of this name. Raises `ApiError` 404 with the route's message, or 400 for an invalid name."""
    if name and not NAME.match(name):
        raise ApiError(400, "invalid model name")
    model = ctx.fake.models.get(full_name(name)) if name else None
    if model is None:
        raise ApiError(404, text.format(name))
    ctx.model = model
    return model


async def send_json(
    ctx: RequestContext, value: Any, status: int = 200, content_type: tuple[str, str] = JSON_TYPE
) -> None:
    body = encode(value)
    if len(body) <= CHUNKED_FROM_BYTES or ctx.request.method == "HEAD":
        await ctx.out.whole(status, [content_type], body)
        return
    await ctx.out.begin(status, [content_type])
    await ctx.out.chunk(body)
    await ctx.out.end()


async def send_late(ctx: RequestContext, status: int, body: bytes) -> None:
    """Sends an error instead of a prepared stream: chunked, and without a character set."""
    await ctx.out.begin(status, [PLAIN_JSON_TYPE])
    await ctx.out.chunk(body)
    await ctx.out.end()


async def version(ctx: RequestContext) -> None:
    await send_json(ctx, {"version": ctx.fake.settings.version})


async def tags(ctx: RequestContext) -> None:
    newest = sorted(ctx.fake.models.values(), key=lambda model: -int(model.modified_at))
    await send_json(ctx, {"models": [tag(model) for model in newest]})


async def ps(ctx: RequestContext) -> None:
    on_gpu = ctx.fake.settings.on_gpu
    listed = [
        running(one.name, one.model, one.settings.num_ctx, one.parallel, one.expires_at, on_gpu)
        for one in ctx.fake.scheduler.listed()
    ]
    await send_json(ctx, {"models": listed})


async def show(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "ShowRequest")
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise ApiError(400, "model is required")
    model = ctx.fake.models.get(full_name(name))
    if model is None:
        raise ApiError(404, f"model '{full_name(name)}' not found")
    await send_json(ctx, shown(model))


def chat_inference(ctx: RequestContext, body: Json) -> InferenceRequest:
    """Checks the request in the order and with the messages of the real server."""
    if not 0 <= body.get("top_logprobs", 0) <= 20:
        raise ApiError(400, "top_logprobs must be between 0 and 20")
    if not body.get("model"):
        raise ApiError(400, "model is required")
    keep_alive_s, thinks = duration_s(body.get("keep_alive")), thinking(body.get("think"))
    model = find(ctx, body["model"])
    return InferenceRequest(
        model=model,
        messages=body.get("messages") or [],
        options=body.get("options") or {},
        keep_alive_s=keep_alive_s,
        tools=body.get("tools") or [],
        format=body.get("format"),
        think=thinks,
        truncate=body.get("truncate") is not False,
        shift=body.get("shift"),
        logprobs=bool(body.get("logprobs")),
        top_logprobs=body.get("top_logprobs", 0),
    )


def thinking(value: Any) -> bool:
    """Raises `ApiError` 400 for an unknown level."""
    if isinstance(value, str) and value not in ("high", "medium", "low", "max"):
        levels = '(must be "high", "medium", "low", "max", true, or false)'
        raise ApiError(400, f'invalid think value: "{value}" {levels}')
    return bool(value)


def check_suffix(model: FakeModel, body: Json) -> None:
    """Raises `ApiError` 400 for a text to fill in, if the model's template has no place for it."""
    if body.get("suffix") and not model.can("insert"):
        raise ApiError(400, f"registry.ollama.ai/library/{model.full_name} does not support insert")


def check_capabilities(inference: InferenceRequest, verb: str) -> None:
    """Raises `ApiError` for capabilities that the model lacks, and for invalid options."""
    model = inference.model
    if inference.tools and not model.can("tools"):
        raise ApiError(400, f"registry.ollama.ai/library/{model.full_name} does not support tools")
    if inference.think and not model.can("thinking"):
        raise ApiError(400, f'"{model.full_name}" does not support thinking')
    if not model.can("completion"):
        raise ApiError(400, f'"{model.full_name}" does not support {verb}')
    check_options(inference.options)


async def chat(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "ChatRequest")
    inference = chat_inference(ctx, body)
    if not inference.messages:
        await load_or_unload(ctx, inference, {"message": {"role": "assistant", "content": ""}})
        return
    check_capabilities(inference, "chat")
    if body.get("_debug_render_only"):
        await send_rendered(ctx, inference, {"message": {"role": "", "content": ""}})
        return
    await answer(ctx, inference, body.get("stream") is not False, chat_fields)


def chat_fields(chunk: Chunk) -> Json:
    message: Json = {"role": "assistant", "content": chunk.text}
    if chunk.thinking:
        message["thinking"] = chunk.thinking
    if chunk.tool_calls:
        message["tool_calls"] = list(chunk.tool_calls)
    return {"message": message}


async def generate(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "GenerateRequest")
    keep_alive_s, thinks = duration_s(body.get("keep_alive")), thinking(body.get("think"))
    model = find(ctx, body.get("model") or "", "model '{}' not found")
    raw = bool(body.get("raw"))
    if raw and (body.get("template") or body.get("system") or body.get("context")):
        raise ApiError(400, "raw mode does not support template, system, or context")
    message = {"role": "user", "content": body.get("prompt") or "", "images": body.get("images") or []}
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    inference = InferenceRequest(
        model=model,
        messages=[*system, message],
        options=body.get("options") or {},
        keep_alive_s=keep_alive_s,
        format=body.get("format"),
        think=thinks,
        truncate=body.get("truncate") is not False,
        shift=body.get("shift"),
        raw=raw,
    )
    if not body.get("prompt"):
        await load_or_unload(ctx, inference, {"response": ""})
        return
    check_suffix(model, body)
    check_capabilities(inference, "generate")
    if body.get("_debug_render_only"):
        await send_rendered(ctx, inference, {"response": ""})
        return
    await answer(ctx, inference, body.get("stream") is not False, generate_fields)


def generate_fields(chunk: Chunk) -> Json:
    return {"response": chunk.text} | ({"thinking": chunk.thinking} if chunk.thinking else {})


async def send_rendered(ctx: RequestContext, inference: InferenceRequest, empty: Json) -> None:
    """Sends only the rendered prompt (0.32.15); a runner is loaded for it."""
    async with ctx.slot(inference):
        debug_info = {"done": False, "_debug_info": {"rendered_template": rendered(inference.messages)}}
    await send_json(ctx, {"model": ctx.spelled, "created_at": ctx.created_at()} | empty | debug_info)


async def load_or_unload(ctx: RequestContext, inference: InferenceRequest, empty: Json) -> None:
    """A request without a prompt: loads the model, or unloads it when `keep_alive` is 0."""
    scheduler = ctx.fake.scheduler
    if inference.keep_alive_s == 0:
        await scheduler.unload_model(inference.model)
        reason = "unload"
    else:
        async with ctx.slot(inference):
            reason = "load"
    ended = {"done": True, "done_reason": reason}
    await send_json(ctx, {"model": ctx.spelled, "created_at": ctx.created_at()} | empty | ended)


def last_fields(inference: InferenceRequest, finish: Finish, is_chat: bool) -> Json:
    """The counters at the end of every complete answer."""
    context = {} if is_chat or inference.raw else {"context": list(range(1, finish.prompt_tokens + finish.tokens))}
    return (
        {"done": True, "done_reason": finish.reason}
        | context
        | {
            "total_duration": finish.total_ns,
            "load_duration": finish.load_ns,
            "prompt_eval_count": finish.prompt_tokens,
            "prompt_eval_duration": finish.prompt_ns,
            "eval_count": finish.tokens,
            "eval_duration": finish.eval_ns,
        }
    )


Fields = Callable[[Chunk], Json]
"""Converts one chunk to the format of an API."""


async def answer(ctx: RequestContext, inference: InferenceRequest, stream: bool, fields: Fields) -> None:
    if stream:
        await answer_stream(ctx, inference, fields)
    else:
        await answer_whole(ctx, inference, fields)


async def answer_stream(ctx: RequestContext, inference: InferenceRequest, fields: Fields) -> None:
    """Sends one NDJSON line per chunk. An error before the first line has its own status, a later one is a line."""
    began = False
    ctx.streams = True
    try:
        async with ctx.generation(inference) as chunks:
            async for chunk in chunks:
                if not began:
                    began = True
                    await ctx.out.begin(200, [NDJSON_TYPE])
                await ctx.out.chunk(encode(stream_line(ctx, inference, chunk, fields)) + b"\n")
    except RunnerLost as lost:
        if not began:
            raise LateError(500, str(lost)) from lost
        await ctx.out.chunk(encode({"error": str(lost)}) + b"\n")
    except EndedEarly:
        if not began:
            await ctx.out.begin(200, [NDJSON_TYPE])
    await ctx.out.end()


def stream_line(ctx: RequestContext, inference: InferenceRequest, chunk: Chunk | Finish, fields: Fields) -> Json:
    head: Json = {"model": ctx.spelled, "created_at": ctx.created_at()}
    if isinstance(chunk, Finish):
        return head | fields(Chunk()) | last_fields(inference, chunk, fields is chat_fields)
    return head | fields(chunk) | {"done": False} | ({"logprobs": list(chunk.logprobs)} if chunk.logprobs else {})


async def answer_whole(ctx: RequestContext, inference: InferenceRequest, fields: Fields) -> None:
    whole, finish = await collected(ctx, inference)
    head: Json = {"model": ctx.spelled, "created_at": ctx.created_at()} | fields(whole)
    if finish is None:
        await send_json(ctx, head | {"done": False})
        return
    last = last_fields(inference, finish, fields is chat_fields)
    if whole.logprobs:
        names = list(last)
        last = {name: last[name] for name in names[:2]} | {"logprobs": list(whole.logprobs)} | last
    await send_json(ctx, head | last)


async def collected(ctx: RequestContext, inference: InferenceRequest) -> tuple[Chunk, Finish | None]:
    """The complete generation, without a `Finish` if it ended early. Raises `ApiError` 500."""
    chunks: list[Chunk] = []
    finish: Finish | None = None
    try:
        async with ctx.generation(inference) as generated:
            async for chunk in generated:
                if isinstance(chunk, Finish):
                    finish = chunk
                else:
                    chunks.append(chunk)
    except RunnerLost as lost:
        raise ApiError(500, str(lost)) from lost
    except EndedEarly:
        pass
    return joined(chunks), finish


def joined(chunks: list[Chunk]) -> Chunk:
    """All chunks joined into one."""
    return Chunk(
        "".join(chunk.text for chunk in chunks),
        "".join(chunk.thinking for chunk in chunks),
        tuple(call for chunk in chunks for call in chunk.tool_calls),
        tuple(entry for chunk in chunks for entry in chunk.logprobs),
    )


async def vectors(ctx: RequestContext, body: Json, texts: list[str], not_found: str) -> tuple[list[list[float]], int]:
    """Embeddings and their prompt tokens. It loads the model even without a text. Raises `ApiError`."""
    keep_alive_s = duration_s(body.get("keep_alive"))
    model = find(ctx, body.get("model") or "", not_found)
    options = body.get("options") or {}
    check_options(options)
    inference = InferenceRequest(model=model, messages=[], options=options, keep_alive_s=keep_alive_s)
    async with ctx.slot(inference) as runner:
        await ctx.before_chunk(0)
        if texts and not model.can("embedding"):
            raise ApiError(501, "This server does not support embeddings. Start it with `--embeddings`")
        counts = [count_tokens(text) + 2 for text in texts]
        if body.get("truncate") is False and any(count > runner.settings.num_ctx for count in counts):
            raise ApiError(400, "the input length exceeds the context length")
        made = [embedding(model.full_name, text, model.embedding_width, body.get("dimensions")) for text in texts]
        return made, sum(min(count, runner.settings.num_ctx) for count in counts)


def embed_texts(value: Any) -> list[str]:
    """One text or a list of texts. Raises `ApiError` 400."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type")
    return texts


async def embed(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "EmbedRequest")
    texts = embed_texts(body.get("input"))
    not_found = 'model "{}" not found, try pulling it first' if body.get("model") else "model '{}' not found"
    made, tokens = await vectors(ctx, body, texts, not_found)
    counters: Json = {}
    if texts:
        took = ctx.load_ns + tokens * 200_000
        counters = {"total_duration": took, "load_duration": ctx.load_ns, "prompt_eval_count": tokens}
    await send_json(ctx, {"model": ctx.spelled, "embeddings": made} | counters)


async def embeddings(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "EmbeddingRequest")
    if not body.get("model"):
        raise ApiError(400, "model is required")
    texts = [body["prompt"]] if body.get("prompt") else []
    try:
        made, _ = await vectors(ctx, body, texts, 'model "{}" not found, try pulling it first')
    except ApiError as error:
        raise ApiError(500, error.message) if error.status == 501 else error from None
    await send_json(ctx, {"embedding": made[0] if made else []})
