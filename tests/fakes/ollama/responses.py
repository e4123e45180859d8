"""Serves the fake Ollama's /v1/responses in the format of Ollama 0.32.

Like the real one it takes every kind of tool as a function, refuses unknown input items, and always reports that an
answer is completed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fakes.ollama.inference import Chunk, EndedEarly, Finish, InferenceRequest, LateError, RunnerLost
from fakes.ollama.models import Json
from fakes.ollama.native import check_capabilities, collected, encode, find
from fakes.ollama.openai import TranslationError, effort, picture, read, send_json

if TYPE_CHECKING:
    from fakes.ollama.request_context import RequestContext

STREAM_HEADERS = [("Cache-Control", "no-cache"), ("Content-Type", "text/event-stream")]


def native_messages(body: Json) -> list[Json]:
    """Raises `TranslationError` for unknown items."""
    out: list[Json] = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    given = body.get("input")
    if isinstance(given, str):
        return [*out, {"role": "user", "content": given}]
    for number, item in enumerate(given or []):
        kind = item.get("type") or ("message" if item.get("role") else "")
        if kind == "message":
            out.append({"role": item["role"], **content_of(item.get("content"))})
        elif kind == "function_call":
            add_call(out, item)
        elif kind == "function_call_output":
            out.append({"role": "tool", **content_of(item.get("output")), "tool_call_id": item.get("call_id")})
        elif kind not in ("reasoning", "web_search_call"):
            raise TranslationError(400, f'input[{number}]: unknown input item type: "{kind}"')
    return out


def content_of(content: Any) -> Json:
    if not isinstance(content, list):
        return {"content": content or ""}
    for part in content:
        if part.get("type") not in ("input_text", "output_text", "input_image"):
            raise TranslationError(400, f"unknown content type: {part.get('type')}")
    pictures = [picture({"image_url": part["image_url"]}) for part in content if part.get("image_url")]
    text = "".join(part.get("text", "") for part in content)
    return {"content": text} | ({"images": pictures} if pictures else {})


def add_call(out: list[Json], item: Json) -> None:
    """Adds a call to the assistant's message before it, if there is one."""
    call = {
        "id": item.get("call_id"),
        "function": {"name": item.get("name"), "arguments": json.loads(item.get("arguments") or "{}")},
    }
    if not out or out[-1]["role"] != "assistant":
        out.append({"role": "assistant", "content": ""})
    out[-1].setdefault("tool_calls", []).append(call)


def native_tools(tools: list[Json], prefix: str = "") -> list[Json]:
    out: list[Json] = []
    for tool in tools:
        if tool["type"] == "namespace":
            out += native_tools(tool["tools"], f"{tool['name']}.")
            continue
        name = "web_search" if tool["type"] == "web_search" else prefix + (tool.get("name") or "")
        function = {"name": name, "parameters": tool.get("parameters") or {}}
        out.append({"type": tool["type"], "function": function})
    return out


async def responses(ctx: RequestContext) -> None:
    body = read(ctx, "ResponsesRequest")
    messages = native_messages(body)
    model = find(ctx, body.get("model") or "")
    wanted = (body.get("text") or {}).get("format") or {}
    inference = InferenceRequest(
        model=model,
        messages=messages,
        options=options_of(body),
        tools=native_tools(body.get("tools") or []),
        format=wanted.get("schema") if wanted.get("type") == "json_schema" else None,
        think=effort(body),
    )
    check_capabilities(inference, "chat")
    answer = Answer(ctx, body)
    if body.get("stream"):
        await stream(ctx, inference, answer)
        return
    whole, finish = await collected(ctx, inference)
    assert finish is not None
    for _ in answer.events(whole):
        pass
    output = answer.items if whole.tool_calls else [*answer.items, answer.message()]
    await send_json(ctx, answer.response("completed", output, usage_of(finish)))


def options_of(body: Json) -> Json:
    options: Json = {"temperature": 1.0}
    options |= {name: body[name] for name in ("temperature", "top_p") if body.get(name) is not None}
    if body.get("max_output_tokens") is not None:
        options["num_predict"] = body["max_output_tokens"]
    return options


def usage_of(finish: Finish) -> Json:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    total = finish.prompt_tokens + finish.tokens
    return {"input_tokens": finish.prompt_tokens, "output_tokens": finish.tokens, "total_tokens": total} | details


class Answer:
    """Converts chunks into events, with the real server's order and gaps: a text before calls is never closed."""

    def __init__(self, ctx: RequestContext, body: Json) -> None:
        self.ctx, self.body = ctx, body
        self.items: list[Json] = []
        self.text, self.thinking = "", ""
        self.index = 0
        self.called = False

    def response(self, status: str, output: list[Json], usage: Json | None) -> Json:
        body, now = self.body, self.ctx.created_unix_s()
        default_text = {"format": {"type": "text"}}
        return {
            "id": f"resp_{self.ctx.number}",
            "object": "response",
            "created_at": now,
            "completed_at": now if status == "completed" else None,
            "status": status,
            "incomplete_details": None,
            "model": self.ctx.spelled,
            "previous_response_id": None,
            "instructions": body.get("instructions") or None,
            "output": output,
            "error": None,
            "tools": body.get("tools") or [],
            "tool_choice": "auto",
            "truncation": body.get("truncation") or "disabled",
            "parallel_tool_calls": True,
            "text": body.get("text") if (body.get("text") or {}).get("format") else default_text,
            "top_p": body.get("top_p", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": body.get("temperature", 1),
            "reasoning": body.get("reasoning"),
            "usage": usage,
            "max_output_tokens": body.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }

    def started(self) -> Iterator[Json]:
        for kind in ("response.created", "response.in_progress"):
            yield {"type": kind, "response": self.response("in_progress", [], None)}

    def message(self, status: str = "completed") -> Json:
        parts = [self.part(self.text)] if status == "completed" else []
        top = {"id": f"msg_{self.ctx.number}", "type": "message", "status": status, "role": "assistant"}
        return top | {"content": parts}

    def part(self, text: str) -> Json:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def at_text(self) -> Json:
        return {"item_id": f"msg_{self.ctx.number}", "output_index": self.index, "content_index": 0}

    def events(self, chunk: Chunk) -> Iterator[Json]:
        if chunk.thinking:
            yield from self._think(chunk.thinking)
        if chunk.tool_calls:
            yield from self._close_thinking()
            self.called = True
            for call in chunk.tool_calls:
                yield from self._call(call)
        elif chunk.text and not self.called:
            yield from self._close_thinking()
            yield from self._say(chunk.text)

    def _think(self, text: str) -> Iterator[Json]:
        where = {"item_id": f"rs_{self.ctx.number}", "output_index": self.index}
        if not self.thinking:
            item = {"id": where["item_id"], "type": "reasoning", "summary": []}
            yield {"type": "response.output_item.added", "output_index": self.index, "item": item}
        self.thinking += text
        yield {"type": "response.reasoning_summary_text.delta", **where, "summary_index": 0, "delta": text}

    def _close_thinking(self) -> Iterator[Json]:
        if not self.thinking:
            return
        text, self.thinking = self.thinking, ""
        where = {"item_id": f"rs_{self.ctx.number}", "output_index": self.index}
        summary = [{"type": "summary_text", "text": text}]
        item = {"id": where["item_id"], "type": "reasoning", "summary": summary, "encrypted_content": text}
        yield {"type": "response.reasoning_summary_text.done", **where, "summary_index": 0, "text": text}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": item}
        self.items.append(item)
        self.index += 1

    def _say(self, text: str) -> Iterator[Json]:
        if not self.text:
            item = self.message("in_progress")
            yield {"type": "response.output_item.added", "output_index": self.index, "item": item}
            yield {"type": "response.content_part.added", **self.at_text(), "part": self.part("")}
        self.text += text
        yield {"type": "response.output_text.delta", **self.at_text(), "delta": text, "logprobs": []}

    def _call(self, call: Json) -> Iterator[Json]:
        arguments = json.dumps(call["function"]["arguments"], separators=(",", ":"))
        item = {"id": f"fc_{call['id']}", "type": "function_call", "status": "completed", "call_id": call["id"]}
        item |= {"name": call["function"]["name"], "arguments": arguments}
        where = {"item_id": item["id"], "output_index": self.index}
        begun = item | {"status": "in_progress", "arguments": ""}
        yield {"type": "response.output_item.added", "output_index": self.index, "item": begun}
        yield {"type": "response.function_call_arguments.delta", **where, "delta": arguments}
        yield {"type": "response.function_call_arguments.done", **where, "arguments": arguments}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": item}
        self.items.append(item)
        self.index += 1

    def ended(self, finish: Finish) -> Iterator[Json]:
        yield from self._close_thinking()
        output = [*self.items, self.message()] if self.text else self.items
        if self.text and not self.called:
            yield {"type": "response.output_text.done", **self.at_text(), "text": self.text, "logprobs": []}
            yield {"type": "response.content_part.done", **self.at_text(), "part": self.part(self.text)}
            yield {"type": "response.output_item.done", "output_index": self.index, "item": self.message()}
        yield {"type": "response.completed", "response": self.response("completed", output, usage_of(finish))}


async def stream(ctx: RequestContext, inference: InferenceRequest, answer: Answer) -> None:
    """Sends each event as one HTTP chunk. A lost runner ends the stream without `response.completed`."""
    began, sent = False, 0
    ctx.streams = True
    try:
        async with ctx.generation(inference) as chunks:
            async for chunk in chunks:
                made: list[Json] = []
                if not began:
                    began = True
                    await ctx.out.begin(200, STREAM_HEADERS)
                    made += answer.started()
                made += answer.ended(chunk) if isinstance(chunk, Finish) else answer.events(chunk)
                for fields in made:
                    await ctx.out.chunk(event(fields | {"sequence_number": sent}))
                    sent += 1
    except RunnerLost as lost:
        if not began:
            raise LateError(500, str(lost)) from lost
    except EndedEarly:
        if not began:
            await ctx.out.begin(200, STREAM_HEADERS)
    await ctx.out.end()


def event(fields: Json) -> bytes:
    """The fields in Go's order of maps."""
    body = json.loads(json.dumps(fields, sort_keys=True))
    return f"event: {fields['type']}\n".encode() + b"data: " + encode(body) + b"\n\n"
