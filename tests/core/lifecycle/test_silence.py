"""Tests how long an engine may be silent in the middle of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from builders import a_model_info, a_report, a_request, a_world
from herd.core.estimates.hardware_priors import Speed
from herd.core.lifecycle.silence import SLACK, TOKENS_ASSUMED, silence_s
from herd.core.state.commands import Dispatch
from herd.core.state.request import RequestKind

SLOW = Speed(prompt_tokens_per_s=50.0, step_s=0.2, batch_slope=0.0, load_s=1.0, cold_load_s=1.0)
TOOLS = frozenset({"completion", "tools"})
WORKING = [
    {"needs": TOOLS},
    {"special_fields": ("functions",)},
    {"has_format": True},
    {"wants_thinking": True},
    {"may_think_unseen": True},
]
"""Requests whose answers may pause while the engine works."""


def allowed_s(limit: int | None = 1000, most_s: float = 1e9, speed: Speed = SLOW, **more: Any) -> float:
    return silence_s(a_request(**more), a_model_info(context_max_tokens=40_000), speed, limit, most_s)


@pytest.mark.parametrize("more", WORKING)
def test_the_allowed_silence_follows_from_the_speed_and_the_limit(more: dict[str, Any]) -> None:
    assert allowed_s(**more) == SLACK * 1000 * 0.2
    assert allowed_s(limit=None, **more) == SLACK * TOKENS_ASSUMED * 0.2
    assert allowed_s(limit=100_000, **more) == SLACK * 40_000 * 0.2, "no more tokens than the context window"


def test_the_allowed_silence_ends() -> None:
    assert allowed_s(limit=100_000, most_s=1800.0, needs=TOOLS) == 1800.0


@pytest.mark.parametrize("more", [{}, {"kind": RequestKind.EMBED, "needs": frozenset({"embedding"})}])
def test_an_answer_whose_tokens_are_all_sent_may_not_pause(more: dict[str, Any]) -> None:
    assert allowed_s(**more) == 0.0


def test_hidden_thoughts_of_a_thinking_model_take_time() -> None:
    thinker = a_model_info(capabilities=frozenset({"completion", "thinking"}))
    assert silence_s(a_request(), thinker, SLOW, 1000, 1e9) == SLACK * 1000 * 0.2


def test_the_dispatch_of_a_request_with_tools_says_how_long_it_may_be_silent() -> None:
    world = a_world()
    world.receives(a_report(models=[a_model_info(slots=2)]))
    [plain], [tools] = world.arrives("r1"), world.arrives("r2", needs=TOOLS, output_tokens_max=2000)
    assert isinstance(plain, Dispatch) and isinstance(tools, Dispatch)
    assert plain.silence_s == 0.0 and 0.0 < tools.silence_s <= 1800.0
