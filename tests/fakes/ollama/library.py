"""Serves the fake Ollama's routes that change the models on disk: copy, delete, blobs, create, pull, push."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from fakes.ollama.inference import ApiError
from fakes.ollama.models import FakeModel, Json, full_name
from fakes.ollama.native import NAME, NDJSON_TYPE, PLAIN_JSON_TYPE, decode, encode, find, send_json

if TYPE_CHECKING:
    from fakes.ollama.request_context import RequestContext

NO_NETWORK = "dial tcp: lookup registry.ollama.ai on 198.51.100.53:53: no such host"
PULL_STEPS = 4


async def copy(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "CopyRequest")
    source, destination = body.get("source") or "", body.get("destination") or ""
    for role, name in (("source", source), ("destination", destination)):
        if not NAME.match(name):
            raise ApiError(400, f'{role} "{name}" is invalid')
    model = find(ctx, source, 'model "{}" not found')
    ctx.fake.add(replace(model, name=destination, blob=model.blob_digest, modified_at=ctx.fake.clock.now()))
    await ctx.out.whole(200, [], b"")


async def delete(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "DeleteRequest")
    if not (body.get("model") or body.get("name")):
        raise ApiError(400, "model is required")
    model = find(ctx, body.get("model") or body["name"])
    await ctx.fake.remove(model)
    await ctx.out.whole(200, [], b"")


async def blobs(ctx: RequestContext) -> None:
    """HEAD checks whether a blob exists, POST uploads it."""
    digest = ctx.request.path.rsplit("/", 1)[-1]
    if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
        raise ApiError(400, "invalid digest format")
    there = digest in ctx.fake.blobs
    if ctx.request.method == "HEAD":
        if not there:
            raise ApiError(404, f"{digest} was not found among the blobs of this server, HEAD")
        await ctx.out.whole(200, [], b"")
        return
    got = f"sha256:{hashlib.sha256(ctx.request.body).hexdigest()}"
    if got != digest:
        raise ApiError(400, f'digest mismatch, expected "{digest}", got "{got}"')
    ctx.fake.blobs[digest] = ctx.request.body
    await ctx.out.whole(200 if there else 201, [], b"")


async def progress(ctx: RequestContext, lines: list[Json], stream: bool, failure: str = "") -> None:
    """Sends progress as NDJSON, or only its end. An error is a last line with status 200, or a 500 if not streaming."""
    if not stream:
        for number in range(len(lines)):
            await ctx.before_chunk(number)
        last = {"error": failure} if failure else lines[-1]
        await send_json(ctx, last, 500 if failure else 200, PLAIN_JSON_TYPE)
        return
    await ctx.out.begin(200, [NDJSON_TYPE])
    for number, line in enumerate([*lines, {"error": failure}] if failure else lines):
        await ctx.before_chunk(number)
        await ctx.out.chunk(encode(line) + b"\n")
    await ctx.out.end()


async def create(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "CreateRequest")
    name, source, files = body.get("model") or body.get("name") or "", body.get("from"), body.get("files")
    if not NAME.match(name):
        raise ApiError(400, "invalid model name")
    if not source and not files:
        await ctx.out.begin(400, [PLAIN_JSON_TYPE])
        await ctx.out.chunk(encode({"error": "neither 'from' or 'files' was specified"}))
        await ctx.out.end()
        return
    given = FakeModel(name=name) if not source else find(ctx, source)
    parameters = {**given.parameters, **(body.get("parameters") or {})}
    made = replace(given, name=name, parameters=parameters, modified_at=ctx.fake.clock.now())
    ctx.fake.add(replace(made, blob=given.blob_digest if source else hashlib.sha256(repr(files).encode()).hexdigest()))
    layer = f"sha256:{made.blob_digest}"
    steps = ["parsing GGUF"] if files else [f"using existing layer {layer}"]
    lines: list[Json] = [{"status": step} for step in [*steps, "writing manifest", "success"]]
    await progress(ctx, lines, body.get("stream") is not False)


async def pull(ctx: RequestContext) -> None:
    body = decode(ctx.request.body, "PullRequest")
    name = body.get("model") or body.get("name") or ""
    if not NAME.match(name):
        raise ApiError(400, "invalid model name")
    stream, registry = body.get("stream") is not False, ctx.fake.settings.registry
    model = (registry or {}).get(full_name(name))
    if model is None:
        path, _, tag = full_name(name).partition(":")
        where = f'Get "https://registry.ollama.ai/v2/library/{path}/manifests/{tag}": {NO_NETWORK}'
        why = f"pull model manifest: {where if registry is None else 'file does not exist'}"
        await progress(ctx, [{"status": "pulling manifest"}], stream, why)
        return
    await progress(ctx, pull_lines(model), stream)
    ctx.fake.add(replace(model, modified_at=ctx.fake.clock.now()))


def pull_lines(model: FakeModel) -> list[Json]:
    layer: Json = {"status": f"pulling {model.blob_digest[:12]}", "digest": f"sha256:{model.blob_digest}"}
    layer["total"] = model.size_bytes
    grown = [{"completed": model.size_bytes * step // PULL_STEPS} for step in range(1, PULL_STEPS + 1)]
    ends: list[Json] = [{"status": s} for s in ("verifying sha256 digest", "writing manifest", "success")]
    return [{"status": "pulling manifest"}, layer, *(layer | part for part in grown), *ends]


async def push(ctx: RequestContext) -> None:
    """Always fails, because there is no registry to push to."""
    body = decode(ctx.request.body, "PushRequest")
    model = find(ctx, body.get("model") or body.get("name") or "")
    path = model.full_name.partition(":")[0]
    blob = f"https://registry.ollama.ai/v2/library/{path}/blobs/sha256:{model.blob_digest}"
    stream = body.get("stream") is not False
    await progress(ctx, [{"status": "retrieving manifest"}], stream, f'Head "{blob}": {NO_NETWORK}')
