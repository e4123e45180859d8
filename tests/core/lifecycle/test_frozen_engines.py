"""A frozen engine is left within seconds of its agent's report, and a slow one is never left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.core.estimates.hardware_priors import Speed
from herd.core.lifecycle.frozen_engines import BATCH_TOKENS, PACE_MIN_S, QUIET_MIN_S, pace_s, quiet_s, reading_s
from herd.core.state.commands import Command, Dispatch, GiveUp
from herd.core.state.events import AttemptFailed, Ticked
from herd.core.state.fleet import Report
from herd.core.state.request import Failure, FailureKind, Outcome, RequestId

LLAMA = an_engine(slots=2, kind="llamacpp")


def a_node(name: str, silent_s: float = 0.0) -> Report:
    engine = replace(LLAMA, silent_s=silent_s)
    return a_report(name, [a_model_info(loaded=True, engine=engine)], engines=(engine,))


def two_nodes() -> World:
    world = a_world()
    world.receives(a_node("alpha"), a_node("beta"))
    return world


def ticks(world: World, seconds: float) -> list[Command]:
    out: list[Command] = []
    for _ in range(int(seconds / 0.5)):
        world.now += 0.5
        out += world.feed(Ticked(world.now))
    return out


def dispatches(commands: list[Command]) -> list[str]:
    return [command.node_id for command in commands if isinstance(command, Dispatch)]


def test_a_request_without_a_first_byte_leaves_a_frozen_engine_within_two_seconds_of_the_report() -> None:
    world = two_nodes()
    (first,) = dispatches(world.arrives())
    other = {"alpha": "beta", "beta": "alpha"}[first]
    world.receives(a_node(first, silent_s=5.0))
    assert dispatches(ticks(world, 2.0)) == [other]
    world.finishes(attempt=2)
    assert world.rows() == [Outcome.RETRIED, Outcome.COMPLETED]


def test_a_stream_is_given_up_only_by_its_relay_which_knows_whether_it_is_silent() -> None:
    world = two_nodes()
    (first,) = dispatches(world.arrives(stream=True))
    world.first_byte()
    world.receives(a_node(first, silent_s=5.0))
    asked = [command for command in ticks(world, 2.0) if isinstance(command, GiveUp)]
    assert asked and asked[0].kinds == {"llamacpp"} and asked[0].quiet_s >= QUIET_MIN_S
    failure = replace(asked[0].failure, bytes_forwarded=9, continuation_kinds=frozenset({"llamacpp"}))
    commands = world.feed(AttemptFailed(world.now, RequestId("r1"), 1, failure))
    assert dispatches(commands) == [{"alpha": "beta", "beta": "alpha"}[first]]


def test_without_another_node_requests_stay_where_they_are() -> None:
    world = a_world()
    world.receives(a_node("alpha"))
    world.arrives()
    world.receives(a_node("alpha", silent_s=9.0))
    assert not [command for command in ticks(world, 20.0) if isinstance(command, Dispatch | GiveUp)]


def test_new_requests_avoid_a_frozen_engine_until_it_answers_again() -> None:
    world = two_nodes()
    world.receives(a_node("alpha", silent_s=6.0))
    assert dispatches(world.arrives("r1") + world.arrives("r2")) == ["beta", "beta"]
    world.receives(a_node("alpha"))
    assert dispatches(world.arrives("r3")) == ["alpha"]


def test_an_engine_that_freezes_again_waits_longer_for_its_next_request() -> None:
    world = two_nodes()
    for _ in range(2):
        world.receives(a_node("alpha", silent_s=6.0))
        world.receives(a_node("alpha"))
    node = world.dispatcher.fleet.nodes[a_node("alpha").node_id]
    assert node.returns == 2 and node.untrusted_until > world.now


def test_a_frozen_engine_does_not_count_against_the_request() -> None:
    world = a_world()
    world.receives(*(a_node(name) for name in "abcde"))
    world.arrives()
    for attempt in range(1, 5):
        world.fails(attempt=attempt, kind=FailureKind.FROZEN)
    world.finishes(attempt=5)
    assert world.rows()[-1] is Outcome.COMPLETED


speeds = st.builds(
    Speed, st.floats(5.0, 20_000.0), st.floats(0.001, 4.0), st.floats(0.0, 1.5), st.just(1.0), st.just(1.0)
)


@given(speeds, st.integers(1, 16))
def test_pauses_that_a_slow_machine_explains_are_no_sign_of_a_fault(speed: Speed, slots: int) -> None:
    model_info = a_model_info(engine=an_engine(slots=slots))
    step_s = speed.step_with_s(slots)
    assert pace_s(model_info, speed, 0.0) >= max(PACE_MIN_S, 20 * step_s)
    assert quiet_s(model_info, speed) >= max(QUIET_MIN_S, 4 * step_s)


def a_stream_beside(*prompts: int, is_streaming: bool = False) -> tuple[World, float]:
    """A node with a stream and other requests with prompts of these lengths; the seconds of a full batch."""
    world = a_world()
    engine = an_engine(slots=8, kind="llamacpp")
    world.receives(a_report("alpha", [a_model_info(loaded=True, engine=engine)], engines=(engine,)))
    world.arrives(stream=True)
    world.first_byte()
    for number, tokens in enumerate(prompts):
        world.arrives(f"other{number}", stream=True, prompt_tokens=tokens)
        if is_streaming:
            world.first_byte(f"other{number}")
    (node,) = world.dispatcher.fleet.nodes.values()
    (model,) = node.report.models
    return world, BATCH_TOKENS / world.dispatcher.forecast.speeds.speed(node, model).prompt_tokens_per_s


def explained_s(world: World) -> float:
    dispatcher = world.dispatcher
    return reading_s(dispatcher.live_requests, dispatcher.forecast, dispatcher.fleet, RequestId("r1"), world.now)


@pytest.mark.parametrize("prompts", [(BATCH_TOKENS,), (90_000,), (1500, 1500), (90_000, 10)])
def test_a_silence_while_other_prompts_are_read_shows_nothing(prompts: tuple[int, ...]) -> None:
    world, batch_s = a_stream_beside(*prompts)
    assert explained_s(world) >= 2 * batch_s


def test_short_prompts_explain_only_a_short_silence_and_streams_none() -> None:
    world, batch_s = a_stream_beside(10, 10)
    assert explained_s(world) <= batch_s / 10
    assert explained_s(a_stream_beside(90_000, 1500, is_streaming=True)[0]) == 0.0
    assert explained_s(a_stream_beside()[0]) == 0.0


def test_the_prompt_of_an_answer_without_streaming_explains_no_silence_after_its_reading() -> None:
    world, _ = a_stream_beside(10)
    for number in range(6):
        world.arrives(f"whole{number}", stream=False, prompt_tokens=400)
    assert explained_s(world) > 0.0
    world.now += 400.0 * 60.0
    assert explained_s(world) == pytest.approx(explained_s(a_stream_beside(10)[0]))


@pytest.mark.parametrize("silence_s", [30.0, 1800.0])
def test_the_pace_says_nothing_where_tools_or_thinking_may_be_silent(silence_s: float) -> None:
    assert pace_s(a_model_info(), Speed(1000.0, 0.02, 0.1, 1.0, 1.0), silence_s) == 0.0


@pytest.mark.parametrize("prompt_tokens_per_s", [30.0, 3000.0])
def test_a_fast_machine_without_progress_is_noticed_in_eight_seconds(prompt_tokens_per_s: float) -> None:
    """Also if its prompt speed was learned from prompts that are too short to show it."""
    assert pace_s(a_model_info(), Speed(prompt_tokens_per_s, 0.02, 0.1, 1.0, 1.0), 0.0) == PACE_MIN_S


def test_the_pace_is_not_judged_where_no_other_node_could_continue() -> None:
    alone, world = a_world(), two_nodes()
    alone.receives(a_node("alpha"))
    for one, expected in ((alone, False), (world, True)):
        (command,) = (c for c in one.arrives(stream=True) if isinstance(c, Dispatch))
        assert bool(command.pace_s) is expected


def test_a_failure_of_a_frozen_engine_counts_against_its_node() -> None:
    assert Failure(kind=FailureKind.FROZEN).is_nodes_fault
