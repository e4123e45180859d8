"""Tests what engine options change in a conversation, and which fields they name as ignored."""

from __future__ import annotations

import msgspec
import pytest

from herd.core.state.engine_options import EngineOptions
from herd.core.state.request import RequestKind
from herd.core.state.served_paths import ServedPath
from herd.protocols.apply_options import as_own_endpoint, with_engine_options
from herd.protocols.conversation import Conversation
from herd.protocols.openai import chat_json


@pytest.mark.parametrize(
    ("think", "left", "ignored"),
    [
        ("high", None, ["output_config.effort"]),
        (True, None, ["output_config.effort"]),
        (False, False, []),
        (None, None, []),
    ],
)
def test_a_model_that_cannot_think_is_not_asked_to(
    think: bool | str | None, left: bool | None, ignored: list[str]
) -> None:
    asked = Conversation(
        kind=RequestKind.CHAT, model="m", stream=False, think=think, think_field="output_config.effort"
    )
    changed = with_engine_options(asked, EngineOptions(drops_thinking=True))
    assert (changed.think, changed.ignored, asked.ignored) == (left, ignored, ignored)
    assert EngineOptions(drops_thinking=True).changes_nothing, "the engine's own endpoint decides itself"
    assert with_engine_options(asked, EngineOptions()).think == think


def texts(*parts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": part} for part in parts]


def test_an_endpoint_that_makes_a_turn_of_every_part_is_imitated() -> None:
    """Ollama's /v1/chat/completions; its templates put a blank line between turns of the same role."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QQ=="}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = [
        {"role": "user", "content": [{"type": "text", "text": "See:"}, picture, {"type": "text", "text": "What?"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}],
            "tool_calls": [call],
        },
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}],
        },
        {"role": "user", "content": [{"type": "text", "text": "one part"}]},
    ]
    read = chat_json.read_messages(msgspec.convert(sent, list[chat_json.Message]))
    asked = Conversation(kind=RequestKind.CHAT, model="m", stream=False, messages=read)
    split = as_own_endpoint(asked, ServedPath(splits_content=True)).messages
    assert [(turn.role, turn.text, turn.images, len(turn.tool_calls), turn.tool_name) for turn in split] == [
        ("user", "See:", [], 0, ""),
        ("user", "", [("QQ==", "image/jpeg")], 0, ""),
        ("user", "What?", [], 0, ""),
        ("assistant", "A", [], 0, ""),
        ("assistant", "B", [], 1, ""),
        ("tool", "1", [], 0, "f"),
        ("tool", "2", [], 0, "f"),
        ("user", "one part", [], 0, ""),
    ]
    assert [turn.text for turn in as_own_endpoint(asked, ServedPath()).messages] == [
        "See:What?",
        "AB",
        "12",
        "one part",
    ]
