"""Writes the messages and tools of chat requests to servers with OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from herd.protocols import conversation


def write_messages(turns: Iterable[conversation.Message]) -> list[dict[str, Any]]:
    """OpenAI's messages. Calls without an id (Ollama's clients send none) get one, which their results get too."""
    unanswered: list[tuple[str, str]] = []
    messages: list[dict[str, Any]] = []
    for turn in turns:
        body: dict[str, Any] = {"role": "system" if turn.role == "developer" else turn.role, "content": _content(turn)}
        if turn.thinking:
            body["reasoning_content"] = turn.thinking
        if turn.tool_calls:
            body["tool_calls"] = _write_calls(turn.tool_calls, len(messages), unanswered)
            body["content"] = turn.text or None
        if turn.role == "tool":
            body["tool_call_id"] = turn.tool_call_id or _matching_call_id(turn.tool_name, unanswered)
        messages.append(body)
    return messages


def write_tools(tools: Sequence[conversation.Tool]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            }
            | ({"strict": True} if tool.strict else {}),
        }
        for tool in tools
    ]


def _content(turn: conversation.Message) -> str | list[dict[str, Any]]:
    if not turn.images:
        return turn.text
    parts: list[dict[str, Any]] = [{"type": "text", "text": turn.text}] if turn.text else []
    images = ({"url": f"data:{media_type};base64,{data}"} for data, media_type in turn.images)
    return parts + [{"type": "image_url", "image_url": image} for image in images]


def _write_calls(
    calls: Iterable[conversation.ToolCall], turn: int, unanswered: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    written = []
    for call in calls:
        call_id = call.id or f"call_{turn}_{call.index}"
        unanswered.append((call_id, call.name))
        function = {"name": call.name, "arguments": call.arguments or "{}"}
        written.append({"id": call_id, "type": "function", "function": function})
    return written


def _matching_call_id(tool_name: str, unanswered: list[tuple[str, str]]) -> str:
    """The id of the oldest call without a result, preferably a call of this tool."""
    matching = [entry for entry in unanswered if entry[1] == tool_name] or unanswered[:1]
    if not matching:
        return "call_unknown"
    unanswered.remove(matching[0])
    return matching[0][0]
