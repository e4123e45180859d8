"""Reads a request as its engine would: the answer it asks for, the part that exists already, and the limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.faults.answers import Answer, Kind, after_mark, count_tokens, find_answer

Json = dict[str, Any]
TURN = "<|assistant|>"
"""Where the assistant's turn begins in a rendered prompt."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`beginning` is the text of the answer that the prompt already has."""

    answer: Answer
    beginning: str
    limit: int | None
    is_stream: bool
    prompt_tokens: int
    model: str
    rendered: str | None = None
    """The rendered prompt, if only that is requested."""


def read(path: str, body: Json, continues_turns: bool) -> Asked | None:
    """None if the request has no mark. `continues_turns`: whether a trailing turn of the assistant is continued."""
    text = _text(body)
    answer = find_answer(text)
    if answer is None:
        return None
    if body.get("tool_choice") in ("none", {"type": "none"}) or (answer.kind is Kind.CALL and not body.get("tools")):
        answer = Answer(answer.seed, answer.words_count, answer.word_ms)
    beginning = _beginning(path, body, continues_turns)
    rendered = f"{text}\n{TURN}" if body.get("_debug_render_only") else None
    return Asked(
        answer, beginning, _limit(body), _is_stream(path, body), count_tokens(text), str(body["model"]), rendered
    )


def _is_stream(path: str, body: Json) -> bool:
    return bool(body.get("stream", path in ("/api/chat", "/api/generate")))


def _limit(body: Json) -> int | None:
    options = body.get("options") or {}
    for value in (
        body.get("max_completion_tokens"),
        body.get("max_tokens"),
        body.get("n_predict"),
        options.get("num_predict"),
    ):
        if isinstance(value, int) and value > 0:
            return value
    return None


def _content(content: object) -> str:
    """The text of a message: a string, or parts with texts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _text(body: Json) -> str:
    messages = body.get("messages")
    if isinstance(messages, list):
        return "\n".join(_content(message.get("content")) for message in messages)
    given = body.get("prompt") or body.get("input") or ""
    return given if isinstance(given, str) else " ".join(map(str, given))


def _beginning(path: str, body: Json, continues_turns: bool) -> str:
    messages = body.get("messages")
    if isinstance(messages, list):
        is_continued = continues_turns and messages and messages[-1].get("role") == "assistant"
        return _content(messages[-1].get("content")) if is_continued else ""
    if path == "/api/generate" and not body.get("raw"):
        return ""
    prompt = str(body.get("prompt") or "")
    return prompt.rpartition(TURN)[2] if TURN in prompt else after_mark(prompt)
