"""Writes requests in the dialects of clients and reads their answers: text, thinking, call, end and counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.faults.answers import TOOL, Answer, Kind
from bench.faults.engines.inventory import EMBEDDER, MODEL

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Api:
    """One path of the coordinator, streamed or not."""

    name: str
    path: str
    is_stream: bool
    has_tools: bool = True
    has_thinking: bool = True

    @property
    def title(self) -> str:
        return f"{self.name}, {'streamed' if self.is_stream else 'whole'}"


def _both(name: str, path: str, has_tools: bool = True, has_thinking: bool = True) -> tuple[Api, Api]:
    return Api(name, path, True, has_tools, has_thinking), Api(name, path, False, has_tools, has_thinking)


APIS = (
    *_both("OpenAI chat", "/v1/chat/completions"),
    *_both("OpenAI completions", "/v1/completions", has_tools=False, has_thinking=False),
    *_both("OpenAI Responses", "/v1/responses"),
    *_both("Anthropic", "/v1/messages"),
    *_both("Ollama chat", "/api/chat"),
    *_both("Ollama generate", "/api/generate", has_tools=False),
    Api("OpenAI embeddings", "/v1/embeddings", False, False, False),
    Api("Ollama embed", "/api/embed", False, False, False),
)


@dataclass(slots=True, kw_only=True)
class Read:
    """What a client understood. `end` is "stop", "length" or "call"; empty if the answer did not end well."""

    text: str = ""
    thinking: str = ""
    call: Json | None = None
    end: str = ""
    completion_tokens: int | None = None
    vector: list[float] | None = None
    error: str = ""
    is_continued: bool = False


def is_embedding(api: Api) -> bool:
    return "embed" in api.path


def body_of(api: Api, answer: Answer, limit: int | None) -> Json:
    """The body of a request for this answer, with at most `limit` tokens."""
    prompt = f"Continue this text. {answer.mark}"
    body: Json = {"model": EMBEDDER if is_embedding(api) else MODEL}
    if is_embedding(api):
        return body | {"input": prompt}
    body["stream"] = api.is_stream
    if api.path in ("/v1/completions", "/api/generate"):
        body["prompt"] = prompt
    elif api.path == "/v1/responses":
        body["input"] = prompt
    else:
        body["messages"] = [{"role": "user", "content": prompt}]
    if api.path.startswith("/api/"):
        body["options"] = {"num_predict": limit} if limit is not None else {}
    elif api.path == "/v1/responses":
        body |= {"max_output_tokens": limit} if limit is not None else {}
    elif api.path == "/v1/messages" or limit is not None:
        body["max_tokens"] = limit or 4096
    if api.path in ("/v1/chat/completions", "/v1/completions") and api.is_stream and answer.seed % 2:
        body["stream_options"] = {"include_usage": True}
    if answer.kind is Kind.CALL:
        body["tools"] = [_tool(api)]
    return body


def _tool(api: Api) -> Json:
    properties = {"text": {"type": "string"}, "number": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["text", "number"]}
    described: Json = {"name": TOOL, "description": "Keeps a note."}
    if api.path == "/v1/messages":
        return described | {"input_schema": schema}
    if api.path == "/v1/responses":
        return described | {"type": "function", "parameters": schema}
    return {"type": "function", "function": described | {"parameters": schema}}


# --- answers ---


def read(api: Api, raw: bytes) -> Read:
    """Reads an answer with status 200; what cannot be read leaves `end` empty."""
    found = Read(is_continued=b"fleet_note" in raw)
    try:
        if api.is_stream:
            _read_stream(api, raw, found)
        else:
            _READERS[api.path](json.loads(raw), found)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        found.end, found.error = "", found.error or f"{type(error).__name__}: {error}"
    return found


def _read_stream(api: Api, raw: bytes, found: Read) -> None:
    if api.path.startswith("/api/"):
        for line in raw.splitlines():
            _READERS[api.path](json.loads(line), found)
        return
    for data in _events(raw):
        if data == "[DONE]":
            continue
        event = json.loads(data)
        if event.get("error"):
            found.end, found.error = "", json.dumps(event["error"])
            return
        _STREAMS[api.path](event, found)
    if _TERMINATORS.get(api.path, b"") not in raw.rstrip().rpartition(b"\n\n")[2]:
        found.end, found.error = "", found.error or "the terminator is missing"


def _events(raw: bytes) -> Iterator[str]:
    for line in raw.split(b"\n"):
        if line.startswith(b"data:"):
            yield line[5:].strip().decode()


def _openai_message(choice: Json, message: Json, found: Read) -> None:
    found.text += message.get("content") or ""
    found.thinking += message.get("reasoning_content") or message.get("reasoning") or ""
    for call in message.get("tool_calls") or ():
        _add_call(found, call.get("function") or {})
    reason: str = choice.get("finish_reason") or found.end
    found.end = "call" if reason == "tool_calls" else reason


def _add_call(found: Read, function: Json) -> None:
    known = found.call or {"name": "", "arguments": ""}
    arguments = function.get("arguments") or ""
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    found.call = {"name": known["name"] + (function.get("name") or ""), "arguments": known["arguments"] + written}


def _usage(answer: Json, name: str, found: Read) -> None:
    usage = answer.get("usage")
    if usage and usage.get(name) is not None:
        found.completion_tokens = usage[name]


def _chat(answer: Json, found: Read) -> None:
    for choice in answer["choices"]:
        _openai_message(choice, choice["message"], found)
    _usage(answer, "completion_tokens", found)


def _chat_event(event: Json, found: Read) -> None:
    for choice in event["choices"]:
        _openai_message(choice, choice["delta"], found)
    _usage(event, "completion_tokens", found)


def _completion(answer: Json, found: Read) -> None:
    for choice in answer["choices"]:
        found.text += choice["text"]
        found.end = choice.get("finish_reason") or found.end
    _usage(answer, "completion_tokens", found)


def _response(answer: Json, found: Read) -> None:
    """Every text is in the complete response, so it replaces what was read of the stream."""
    if answer["status"] not in ("completed", "incomplete"):
        found.error = json.dumps(answer.get("error") or answer["status"])
        return
    streamed, found.text, found.thinking, found.call = found.text, "", "", None
    for item in answer["output"]:
        if item["type"] == "function_call":
            _add_call(found, item)
        for part in (*(item.get("content") or ()), *(item.get("summary") or ())):
            is_thinking = item["type"] == "reasoning"
            found.thinking += part["text"] if is_thinking else ""
            found.text += "" if is_thinking else part["text"]
    if streamed and streamed != found.text:
        found.error = "the deltas are not the text of the response"
        return
    is_complete = answer["status"] == "completed"
    found.end = "length" if not is_complete else "call" if found.call else "stop"
    _usage(answer, "output_tokens", found)


def _response_event(event: Json, found: Read) -> None:
    if event["type"] == "response.output_text.delta":
        found.text += event["delta"]
    elif event["type"] == "response.reasoning_summary_text.delta":
        found.thinking += event["delta"]
    elif event["type"] in ("response.completed", "response.incomplete", "response.failed"):
        _response(event["response"], found)


def _message(answer: Json, found: Read) -> None:
    for block in answer["content"]:
        found.text += block.get("text", "")
        found.thinking += block.get("thinking", "")
        if block["type"] == "tool_use":
            _add_call(found, {"name": block["name"], "arguments": block["input"]})
    _stop(answer, found)
    _usage(answer, "output_tokens", found)


def _stop(answer: Json, found: Read) -> None:
    ends = {"end_turn": "stop", "max_tokens": "length", "tool_use": "call"}
    found.end = ends.get(answer.get("stop_reason") or "", found.end)


def _message_event(event: Json, found: Read) -> None:
    if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
        _add_call(found, {"name": event["content_block"]["name"]})
    elif event["type"] == "content_block_delta":
        delta = event["delta"]
        found.text += delta.get("text", "")
        found.thinking += delta.get("thinking", "")
        if "partial_json" in delta:
            _add_call(found, {"arguments": delta["partial_json"]})
    elif event["type"] == "message_delta":
        _stop(event["delta"], found)
        _usage(event, "output_tokens", found)


def _ollama(answer: Json, found: Read) -> None:
    if answer.get("error"):
        found.end, found.error = "", json.dumps(answer["error"])
        return
    message = answer.get("message") or {"content": answer.get("response"), "thinking": answer.get("thinking")}
    found.text += message.get("content") or ""
    found.thinking += message.get("thinking") or ""
    for call in message.get("tool_calls") or ():
        _add_call(found, call["function"])
    if answer["done"]:
        found.end = "length" if answer.get("done_reason") == "length" else "call" if found.call else "stop"
        found.completion_tokens = answer.get("eval_count")


def _embeddings(answer: Json, found: Read) -> None:
    found.vector = answer["data"][0]["embedding"] if "data" in answer else answer["embeddings"][0]
    found.end = "stop"


_READERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/messages": _message,
    "/api/chat": _ollama,
    "/api/generate": _ollama,
    "/v1/embeddings": _embeddings,
    "/api/embed": _embeddings,
}
_TERMINATORS = {"/v1/chat/completions": b"[DONE]", "/v1/completions": b"[DONE]", "/v1/messages": b'"message_stop"'}
_STREAMS = {
    "/v1/chat/completions": _chat_event,
    "/v1/completions": _completion,
    "/v1/responses": _response_event,
    "/v1/messages": _message_event,
}
