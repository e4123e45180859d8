"""Tests how long an engine may be silent in the middle of an answer."""

from __future__ import annotations

import math
from typing import Any

import pytest

from builders import World, a_model_info, a_report, a_request, a_world
from herd.core.estimates.hardware_priors import Speed
from herd.core.lifecycle.silence import SLACK, TOKENS_ASSUMED, silence_s, whole_answer_s
from herd.core.state.commands import Dispatch, Record
from herd.core.state.events import AttemptFinished, Ticked
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import Counters, Outcome, RequestId, RequestKind

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


# --- whole answers ---


def a_live_request(attempts: int, **more: Any) -> LiveRequest:
    request = a_request(stream=False, **more)
    return LiveRequest(request=request, arrived_at=0.0, models=(request.model,), attempts=attempts)


NODES = ("alpha", "spare")


def a_fleet_with_learned_speeds(answers: int = 4) -> World:
    """Each node has answered several requests: 1,000 prompt tokens in one second, and 100 tokens in two."""
    world = a_world("completion_time")
    reports = [a_report(name, [a_model_info(loaded=name == "alpha", slots=1)]) for name in NODES]
    world.receives(*reports)
    for number in range(answers):
        world.arrives(f"before {number}", prompt_tokens=1000)
        world.now += 1.0
        world.first_byte(f"before {number}")
        world.now += 2.0
        counters = Counters(1000, 100, 0, prefill_s=1.0, decode_s=2.0)
        world.feed(AttemptFinished(world.now, RequestId(f"before {number}"), 1, counters, 200))
        world.receives(*reports)
    world.feed(Ticked(world.now))
    world.commands.clear()
    return world


def left_after_s(world: World, **more: Any) -> float:
    """How long a whole answer waits on its first node, which answers its agent but sends nothing; at most 700 s."""
    world.arrives("r1", stream=False, prompt_tokens=0, **more)
    began_at = world.now
    while world.now < began_at + 700.0:
        world.now += 0.5
        world.feed(Ticked(world.now))
        if any(isinstance(command, Record) for command in world.commands):
            break
        world.receives(*(a_report(name, [a_model_info(loaded=name == "alpha", slots=1)]) for name in NODES))
    return world.now - began_at


def test_a_whole_answer_leaves_a_stopped_runner_when_it_is_overdue() -> None:
    world = a_fleet_with_learned_speeds()
    assert 30.0 <= left_after_s(world, output_tokens_max=100) < 40.0
    [row] = [command for command in world.commands if isinstance(command, Record)]
    assert row.outcome is Outcome.RETRIED and row.attempt is not None and row.attempt.node_id == "alpha"
    moved = [command for command in world.commands if isinstance(command, Dispatch)]
    assert [(one.node_id, one.attempt) for one in moved] == [("alpha", 1), ("spare", 2)]


def test_a_longer_answer_has_the_time_that_its_limit_may_take() -> None:
    assert 100.0 < left_after_s(a_fleet_with_learned_speeds(), output_tokens_max=4000) < 600.0


@pytest.mark.parametrize("more", [{}, {"output_tokens_max": 100, "special_fields": ("n",)}])
def test_a_whole_answer_of_any_length_is_not_overdue(more: dict[str, Any]) -> None:
    assert 599.0 <= left_after_s(a_fleet_with_learned_speeds(), **more) <= 602.0


def test_speeds_that_were_seldom_measured_make_no_answer_overdue() -> None:
    assert 599.0 <= left_after_s(a_fleet_with_learned_speeds(answers=1), output_tokens_max=100) <= 602.0


def test_only_the_first_attempt_is_left_earlier() -> None:
    """If the estimate is wrong, a request moves once and is not refused."""
    first, second = a_live_request(attempts=1), a_live_request(attempts=2)
    assert whole_answer_s(first, a_model_info(slots=1), SLOW, 100) == 100 * 0.2
    assert whole_answer_s(second, a_model_info(slots=1), SLOW, 100) == math.inf


def test_all_slots_share_a_slow_processor() -> None:
    slow = Speed(prompt_tokens_per_s=50.0, step_s=0.5, batch_slope=1.0, load_s=1.0, cold_load_s=1.0)
    assert whole_answer_s(a_live_request(attempts=1), a_model_info(slots=4), slow, 100) == 100 * 0.5 * 4
