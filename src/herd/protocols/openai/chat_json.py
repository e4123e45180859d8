"""Reads and writes OpenAI's chat JSON: messages, tools, formats and counters.

The dialect (herd answers clients) and the engines (herd sends requests to servers) use it in opposite directions.
Recorded from llama.cpp b11549 and Ollama 0.32.15. The reasoning field has two names, `reasoning` (Ollama, newer vLLM)
and `reasoning_content` (llama.cpp, LM Studio, older vLLM): both are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from herd.core.state.request import Counters
from herd.errors import BadRequest
from herd.protocols import conversation, request_fields
from herd.protocols.openai.files import FILE_TYPES, data_uri, file_text, unread_file
from herd.protocols.reported_numbers import seconds, token_count

MS_PER_S = 1_000.0
TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "input_image")
"""Types of content parts, in chats and in responses."""
ABSENT = msgspec.Raw()


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCall(msgspec.Struct):
    """`index` is a text in some servers' answers."""

    index: int | str | None = None
    id: str | None = None
    function: Function | None = None

    @property
    def number(self) -> int | None:
        """The index as a number; None if it is absent, or another text."""
        if isinstance(self.index, str):
            return int(self.index) if self.index.isascii() and self.index.isdigit() and len(self.index) < 9 else None
        return self.index


class ImageUrl(msgspec.Struct):
    url: str = ""


class Part(msgspec.Struct, kw_only=True):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: Any = None
    filename: Any = None
    file_data: Any = None
    file_id: Any = None
    file_url: Any = None

    @property
    def as_file(self) -> dict[str, Any]:
        """Its fields that describe a file."""
        return {name: getattr(self, name) for name in ("file", "filename", "file_data", "file_id", "file_url")}


class Message(msgspec.Struct):
    """A message of a request or an answer, or the delta of a stream."""

    role: str | None = None
    content: str | list[Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class AnswerMessage(Message):
    """`function_call` is the form of a single call that OpenAI replaced with `tool_calls`."""

    function_call: Function | None = None


class ToolFunction(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str = "function"
    function: ToolFunction | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: float | None = None


class Usage(msgspec.Struct):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: PromptDetails | None = None


class Timings(msgspec.Struct):
    """llama.cpp's addition to its last chunk. `prompt_n` counts computed prompt tokens, `cache_n` cached ones."""

    cache_n: float | None = None
    prompt_n: float | None = None
    prompt_ms: float | None = None
    predicted_n: float | None = None
    predicted_ms: float | None = None


class Finish(msgspec.Struct):
    finish_reason: str | None = None


class Choice(Finish):
    """`stop_reason` (vLLM) and `matched_stop` (SGLang) are the stop text that ended the answer, or a token id."""

    stop_reason: Any = None
    matched_stop: Any = None
    index: int | None = 0
    delta: AnswerMessage | None = None
    message: AnswerMessage | None = None
    text: str | None = None
    logprobs: Any = None


class Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class AnswerFields(msgspec.Struct):
    """The fields of any chunk or document other than its payload."""

    usage: Usage | None = None
    timings: Timings | None = None
    error: msgspec.Raw = ABSENT


class AnswerOutline(AnswerFields):
    """A chunk or document without its payload, for watchers."""

    choices: list[Finish | None] | None = None


class AnswerChunk(AnswerFields):
    """A chunk of a stream or a complete document, of chat, completions or embeddings."""

    choices: list[Choice | None] | None = None
    data: list[Embedding] | None = None


ANSWER_OUTLINE = msgspec.json.Decoder(AnswerOutline)
ANSWER_CHUNK = msgspec.json.Decoder(AnswerChunk)


# --- counters ---


def usage(answer: AnswerFields) -> conversation.Usage | None:
    """The counters, or None. Tokens come from `usage`; durations and missing tokens come from `timings`."""
    counts, timings = answer.usage, answer.timings
    if counts is None and timings is None:
        return None
    counted = conversation.Usage()
    if counts is not None:
        counted.prompt_tokens = token_count(counts.prompt_tokens)
        counted.completion_tokens = token_count(counts.completion_tokens)
        if counts.prompt_tokens_details is not None:
            counted.cached_tokens = token_count(counts.prompt_tokens_details.cached_tokens)
    if timings is not None:
        _add_timings(counted, timings)
    return counted


def _add_timings(counted: conversation.Usage, timings: Timings) -> None:
    if counted.prompt_tokens is None and (computed := token_count(timings.prompt_n)) is not None:
        counted.prompt_tokens = computed + (token_count(timings.cache_n) or 0)
    if counted.completion_tokens is None:
        counted.completion_tokens = token_count(timings.predicted_n)
    if counted.cached_tokens is None:
        counted.cached_tokens = token_count(timings.cache_n)
    counted.prefill_s = seconds(timings.prompt_ms, MS_PER_S)
    counted.decode_s = seconds(timings.predicted_ms, MS_PER_S)


def counters(usage: conversation.Usage, finish_reason: str | None) -> Counters:
    return Counters(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.load_s,
        usage.prefill_s,
        usage.decode_s,
        finish_reason,
    )


def write_usage(usage: conversation.Usage) -> dict[str, Any]:
    """The `usage` object. OpenAI's clients require numbers, so unknown values are 0."""
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    body: dict[str, Any] = {**counts}
    if usage.cached_tokens is not None:
        body["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return body


# --- messages, read ---


def read_messages(
    messages: Iterable[Message], unsupported: list[str] | None = None, ignored: list[str] | None = None
) -> list[conversation.Message]:
    """Neutral turns. A tool result gets the name of the call it belongs to.

    A part that the neutral form cannot express is added to `unsupported`; without that list it is a BadRequest. A file
    becomes its text; one without text is added to `ignored`.
    """
    names: dict[str, str] = {}
    turns = []
    for position, message in enumerate(messages):
        content = message.content
        if unsupported is not None and not (message.role or content is not None or message.tool_calls):
            raise BadRequest(f"messages[{position}] must have a role, and content or tool calls")
        if isinstance(content, list):
            unread = [at for at, part in enumerate(content) if not _read_file(part)]
            if ignored is not None:
                ignored += [f"messages[{position}].content[{at}] (file)" for at in unread]
        if unsupported is not None and isinstance(content, list):
            lost = [at for at, part in enumerate(content) if not _is_expressible(part)]
            unsupported += [f"messages[{position}].content[{at}]" for at in lost]
            message.content = [part for part in content if _is_expressible(part)]
        turn = _turn(message)
        names.update((call.id, call.name) for call in turn.tool_calls if call.id)
        if turn.role == "tool" and not turn.tool_name:
            turn.tool_name = names.get(turn.tool_call_id, "")
        turns.append(turn)
    return turns


def read_text(content: str | list[Part] | None) -> str:
    """The text of content without images. Raises BadRequest for other content parts."""
    if not isinstance(content, list):
        return content or ""
    return "".join(_part_text(part) for part in content)


def read_tool_calls(calls: Iterable[ToolCall] | None) -> list[conversation.ToolCall]:
    """Neutral calls or, in a stream, fragments of calls. A call without an index gets its position as index."""
    return [_call(position, call) for position, call in enumerate(calls or ())]


def thinking(message: Message) -> str:
    return message.reasoning_content or message.reasoning or ""


def _turn(message: Message) -> conversation.Message:
    role = message.role or "user"
    content = message.content
    images = [p for p in content if p.type in IMAGE_TYPES] if isinstance(content, list) else []
    other_parts = [p for p in content if p.type not in IMAGE_TYPES] if isinstance(content, list) else content
    turn = conversation.Message(
        role,
        read_text(other_parts),
        thinking(message),
        [_image(part) for part in images],
        read_tool_calls(message.tool_calls),
        message.tool_call_id or "",
        (message.name or "") if role == "tool" else "",
    )
    if not isinstance(content, list) or len(content) < 2:
        return turn
    fields = {field.name: getattr(turn, field.name) for field in dataclasses.fields(turn)}
    return conversation.MessageOfParts(**fields, pieces=[_piece(role, part) for part in content])


def _read_file(part: Part) -> bool:
    """Makes a file a text, in place. Returns whether that is its own text; true for other parts."""
    if part.type not in FILE_TYPES:
        return True
    text = file_text(part.as_file)
    part.type, part.text = "text", unread_file(part.as_file) if text is None else text
    return text is not None


def _piece(role: str, part: Part) -> conversation.Message:
    if part.type in IMAGE_TYPES:
        return conversation.Message(role, images=[_image(part)])
    return conversation.Message(role, _part_text(part))


def _is_expressible(part: Part) -> bool:
    if part.type in IMAGE_TYPES:
        return not _url(part).startswith(("http:", "https:"))
    return part.type in TEXT_TYPES or part.type == "refusal"


def _url(part: Part) -> str:
    return part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url or ""


def _part_text(part: Part) -> str:
    if part.type in TEXT_TYPES:
        return part.text or ""
    if part.type == "refusal":
        return part.refusal or ""
    raise BadRequest(
        f"messages: a content part of type {part.type!r} cannot be translated for the nodes that have this model"
    )


def _image(part: Part) -> tuple[str, str]:
    image = data_uri(_url(part), "image/png")
    if image is None:
        raise BadRequest("messages: image_url must be a data: URI with base64; images are not downloaded from URLs")
    return image


def _call(position: int, call: ToolCall) -> conversation.ToolCall:
    function = call.function or Function()
    given = function.arguments
    arguments = msgspec.json.encode(given).decode() if isinstance(given, dict) else given or ""
    number = call.number
    return conversation.ToolCall(position if number is None else number, call.id or "", function.name or "", arguments)


# --- formats and choices ---


def read_format(response_format: object, unsupported: list[str] | None = None) -> object:
    """None, "json" or the schema. An unknown type is added to `unsupported`; without that list it is a BadRequest."""
    given = response_format if isinstance(response_format, dict) else {}
    kind = given.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return given["schema"] if isinstance(given.get("schema"), dict) else "json"
    if kind == "json_schema":
        inner = given.get("json_schema")
        if "json_schema" in given and not isinstance(inner, dict | None):
            raise request_fields.wrong_type("response_format.json_schema", "an object", inner)
        schema = inner.get("schema") if isinstance(inner, dict) else given.get("schema")
        if isinstance(schema, dict):
            return schema
        if unsupported is None or schema is not None:
            raise request_fields.wrong_type("response_format.json_schema.schema", "an object", schema)
    if unsupported is not None and isinstance(kind, str):
        unsupported.append(f"response_format.{'json_schema' if kind == 'json_schema' else 'type'}")
        return None
    if not isinstance(response_format, dict):
        raise request_fields.wrong_type("response_format", "an object with a type", response_format)
    raise request_fields.wrong_type("response_format.type", "text, json_object or json_schema", kind)


def read_tools(tools: Iterable[Tool] | None, unsupported: list[str] | None = None) -> list[conversation.Tool]:
    """The functions. Other tools are added to `unsupported`; without that list they are a BadRequest."""
    read = []
    for position, tool in enumerate(tools or ()):
        if tool.type != "function" or tool.function is None:
            if unsupported is not None and tool.type != "function":
                unsupported.append(f"tools[{position}]")
                continue
            raise BadRequest(f"tools: only functions can be translated, not {tool.type!r}")
        function, text = tool.function, tool.function.description or ""
        read.append(conversation.Tool(function.name, text, function.parameters, bool(function.strict)))
    return read


def read_tool_choice(choice: object, unsupported: list[str] | None = None) -> object:
    """None, "auto", "none", "required" or `{"type": "function", "function": {"name": ...}}`.

    Another choice is added to `unsupported`; without that list it is a BadRequest.
    """
    if choice in (None, "auto", "none", "required") or chosen_tool(choice) is not None:
        return choice
    if unsupported is not None and isinstance(choice, dict):
        unsupported.append("tool_choice")
        return None
    raise request_fields.wrong_type("tool_choice", '"auto", "none", "required" or one function by name', choice)


def chosen_tool(choice: object) -> str | None:
    """The name of the tool that must be called, if one was chosen by name."""
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None
