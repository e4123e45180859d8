"""Plays the scripted model in the fake Ollama, in every API that Ollama serves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fakes.ollama.models import FakeModel
from fakes.scripted.task import Call, Json, OfferedTool, Seen, Turn, decide


def scripted_model(name: str = "scripted", context_train: int = 131_072) -> FakeModel:
    capabilities = ("completion", "tools", "thinking")
    return FakeModel(name=name, capabilities=capabilities, context_train=context_train, script=play)


def play(messages: Sequence[Json], tools: Sequence[Json], wanted: Any = None) -> tuple[str, str, Sequence[Json]]:
    """Thoughts, text and calls for a conversation in native form."""
    offered = [OfferedTool(one["function"]["name"], schema=one["function"].get("parameters") or {}) for one in tools]
    schema = wanted if isinstance(wanted, dict) else {} if wanted else None
    move = decide(Seen(turns=[read_message(one) for one in messages], tools=offered, schema=schema))
    calls = [
        {"id": call.id, "function": {"index": number, "name": call.name, "arguments": call.arguments}}
        for number, call in enumerate(move.calls)
    ]
    return move.thinking, move.text, calls


def read_message(message: Json) -> Turn:
    calls = tuple(read_call(call) for call in message.get("tool_calls") or ())
    text, call_id = str(message.get("content") or ""), message.get("tool_call_id") or ""
    return Turn(role=message["role"], text=text, calls=calls, call_id=call_id)


def read_call(call: Json) -> Call:
    """OpenAI's API gives the arguments as text."""
    arguments = call["function"]["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return Call(id=call.get("id") or "", name=call["function"]["name"], arguments=arguments)
