"""Tests that the token limit of a thinking model leaves room for its answer."""

from __future__ import annotations

from typing import Any

import pytest

from builders import a_request, an_engine
from herd.core.context.thinking import ThinkingSettings, budget_tokens
from herd.core.state.fleet import ModelInfo
from herd.core.state.request import RequestKind

THINKER = ModelInfo(name="m", engine=an_engine(), size_bytes=1, capabilities=frozenset({"completion", "thinking"}))


@pytest.mark.parametrize(("asked", "budget"), [(50, 1024), (256, 1024), (257, 1028), (1000, 4000)])
def test_limit_is_raised_for_a_thinking_model(asked: int, budget: int) -> None:
    assert budget_tokens(a_request(output_tokens_max=asked), THINKER, ThinkingSettings()) == budget


@pytest.mark.parametrize(
    "more",
    [{}, {"output_tokens_max": 50, "is_thinking_in_limit": True}, {"output_tokens_max": 50, "kind": RequestKind.EMBED}],
)
def test_limit_is_unchanged_if_absent_or_if_it_includes_reasoning(more: dict[str, Any]) -> None:
    assert budget_tokens(a_request(**more), THINKER, ThinkingSettings()) is None


def test_limit_is_unchanged_for_other_models_other_engines_and_by_setting() -> None:
    asked = a_request(output_tokens_max=50)
    assert budget_tokens(asked, ModelInfo(name="m", engine=an_engine(), size_bytes=1), ThinkingSettings()) is None
    elsewhere = ModelInfo(name="m", engine=an_engine(kind="llamacpp"), size_bytes=1, capabilities=THINKER.capabilities)
    assert budget_tokens(asked, elsewhere, ThinkingSettings()) is None
    assert budget_tokens(asked, THINKER, ThinkingSettings(overhead=1.0)) is None
