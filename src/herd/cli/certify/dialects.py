"""Asks a model through one of the APIs that agents use, streamed as they do, and reads the answer in one form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from herd.cli.client import CliError, CoordinatorClient, Json

ANSWER_MAX_TOKENS = 1024


class AnswerInvalid(Exception):
    """The answer does not have the format of the API. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """As the model wrote them: JSON if they are valid."""

    def parsed(self) -> Json:
        """Raises `AnswerInvalid`."""
        try:
            value = json.loads(self.arguments)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise AnswerInvalid(f"the arguments of {self.name} are not a JSON object: {self.arguments[:120]}")
        return value


@dataclass(slots=True)
class Answer:
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    reason: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's text, or an answer of the model with the results of its calls."""

    text: str = ""
    answer: Answer | None = None
    results: tuple[str, ...] = ()


Tool = tuple[str, str, tuple[str, ...]]
"""Name, description, and names of the arguments, which are texts."""


class Api(Protocol):
    def ask(self, client: CoordinatorClient, model: str, turns: Sequence[Turn], tools: Sequence[Tool]) -> Answer:
        """One streamed answer. Raises CliError and `AnswerInvalid`."""
        ...


def _schema(arguments: Sequence[str]) -> Json:
    properties = {name: {"type": "string"} for name in arguments}
    return {"type": "object", "properties": properties, "required": list(arguments)}


def events(client: CoordinatorClient, path: str, body: Json) -> Iterator[Json]:
    """The events of a streamed answer. Raises CliError for an error in the stream, and `AnswerInvalid`."""
    for _, line in client.lines(path, body):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise AnswerInvalid(f"an event of {path} is not JSON: {data[:120]!r}") from None
        error = event.get("error") if isinstance(event, dict) else "not an object"
        if error:
            raise CliError(str(error.get("message") if isinstance(error, dict) else error))
        yield event


class ChatCompletions:
    """OpenAI's /v1/chat/completions."""

    def ask(self, client: CoordinatorClient, model: str, turns: Sequence[Turn], tools: Sequence[Tool]) -> Answer:
        body: Json = {"model": model, "messages": [one for turn in turns for one in _chat_messages(turn)]}
        body |= {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "seed": 1}
        body["max_tokens"] = ANSWER_MAX_TOKENS
        if tools:
            functions = [{"name": n, "description": about, "parameters": _schema(names)} for n, about, names in tools]
            body["tools"] = [{"type": "function", "function": function} for function in functions]
        return self.read(events(client, "/v1/chat/completions", body))

    def read(self, stream: Iterator[Json]) -> Answer:
        answer, calls = Answer(), dict[int, list[str]]()
        for event in stream:
            usage = event.get("usage") or {}
            answer.prompt_tokens = usage.get("prompt_tokens", answer.prompt_tokens)
            answer.answer_tokens = usage.get("completion_tokens", answer.answer_tokens)
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                answer.text += delta.get("content") or ""
                answer.reason = choice.get("finish_reason") or answer.reason
                for part in delta.get("tool_calls") or ():
                    call = calls.setdefault(part["index"], ["", "", ""])
                    function = part.get("function") or {}
                    for at, piece in enumerate((part.get("id"), function.get("name"), function.get("arguments"))):
                        call[at] += piece or ""
        answer.calls = [ToolCall(*calls[index]) for index in sorted(calls)]
        return answer


def _chat_messages(turn: Turn) -> Iterator[Json]:
    if turn.answer is None:
        yield {"role": "user", "content": turn.text}
        return
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in turn.answer.calls
    ]
    yield {"role": "assistant", "content": turn.answer.text, "tool_calls": calls}
    for call, result in zip(turn.answer.calls, turn.results, strict=True):
        yield {"role": "tool", "tool_call_id": call.id, "content": result}


class Messages:
    """Anthropic's /v1/messages, which Claude Code uses."""

    def ask(self, client: CoordinatorClient, model: str, turns: Sequence[Turn], tools: Sequence[Tool]) -> Answer:
        body: Json = {"model": model, "messages": [one for turn in turns for one in _messages(turn)]}
        body |= {"stream": True, "max_tokens": ANSWER_MAX_TOKENS, "temperature": 0}
        if tools:
            body["tools"] = [
                {"name": name, "description": about, "input_schema": _schema(names)} for name, about, names in tools
            ]
        answer, blocks = Answer(), dict[int, list[str]]()
        for event in events(client, "/v1/messages", body):
            kind = event.get("type")
            if kind == "message_start":
                answer.prompt_tokens = event["message"]["usage"].get("input_tokens", 0)
            elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
                blocks[event["index"]] = [event["content_block"]["id"], event["content_block"]["name"], ""]
            elif kind == "content_block_delta":
                answer.text += event["delta"].get("text", "")
                if event["index"] in blocks:
                    blocks[event["index"]][2] += event["delta"].get("partial_json", "")
            elif kind == "message_delta":
                answer.reason = event["delta"].get("stop_reason") or ""
                answer.answer_tokens = (event.get("usage") or {}).get("output_tokens", 0)
        answer.calls = [ToolCall(call_id, name, text or "{}") for call_id, name, text in blocks.values()]
        return answer


def _messages(turn: Turn) -> Iterator[Json]:
    if turn.answer is None:
        yield {"role": "user", "content": turn.text}
        return
    content: list[Json] = [{"type": "text", "text": turn.answer.text}] if turn.answer.text.strip() else []
    for call in turn.answer.calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.parsed()})
    yield {"role": "assistant", "content": content}
    results = zip(turn.answer.calls, turn.results, strict=True)
    yield {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": result} for call, result in results],
    }


class Responses:
    """OpenAI's /v1/responses, which Codex uses."""

    def ask(self, client: CoordinatorClient, model: str, turns: Sequence[Turn], tools: Sequence[Tool]) -> Answer:
        body: Json = {"model": model, "input": [one for turn in turns for one in _items(turn)], "store": False}
        body |= {"stream": True, "max_output_tokens": ANSWER_MAX_TOKENS, "temperature": 0}
        if tools:
            body["tools"] = [
                {"type": "function", "name": name, "description": about, "parameters": _schema(names), "strict": False}
                for name, about, names in tools
            ]
        for event in events(client, "/v1/responses", body):
            if event.get("type") in ("response.completed", "response.incomplete", "response.failed"):
                return self._read(event["response"])
        raise AnswerInvalid("the stream ended without response.completed")

    def _read(self, response: Json) -> Answer:
        if response.get("error"):
            raise CliError(str(response["error"].get("message")))
        usage = response.get("usage") or {}
        answer = Answer(prompt_tokens=usage.get("input_tokens", 0), answer_tokens=usage.get("output_tokens", 0))
        answer.reason = str(response.get("status"))
        for item in response["output"]:
            if item["type"] == "function_call":
                answer.calls.append(ToolCall(item["call_id"], item["name"], item["arguments"]))
            elif item["type"] == "message":
                answer.text += "".join(part.get("text", "") for part in item["content"])
        return answer


def _items(turn: Turn) -> Iterator[Json]:
    if turn.answer is None:
        yield {"role": "user", "content": turn.text}
        return
    if turn.answer.text:
        yield {"role": "assistant", "content": turn.answer.text}
    for call in turn.answer.calls:
        yield {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
    for call, result in zip(turn.answer.calls, turn.results, strict=True):
        yield {"type": "function_call_output", "call_id": call.id, "output": result}
