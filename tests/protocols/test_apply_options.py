"""Tests what engine options change in a conversation, and which fields they name as ignored."""

from __future__ import annotations

import pytest

from herd.core.state.engine_options import EngineOptions
from herd.core.state.request import RequestKind
from herd.protocols.apply_options import with_engine_options
from herd.protocols.conversation import Conversation


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
