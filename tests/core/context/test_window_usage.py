"""Tests how the use of context windows is learned, and which window size follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import a_report, a_request, a_world, an_engine
from herd.core.context.window_usage import (
    HALVED_AT,
    SAMPLES_MIN,
    SIZES,
    WINDOW_USE,
    WindowUsage,
    chosen_tokens,
    edge_tokens,
    window_changes,
)
from herd.core.context.windows import WINDOW_MIN_TOKENS, Windows, WindowSettings
from herd.core.state.commands import Dispatch
from herd.core.state.engine_options import EngineOptions
from herd.core.state.events import AttemptFinished
from herd.core.state.fleet import Fleet, Loaded, ModelInfo, NodeId, canonical
from herd.core.state.learned_values import LearnedValue
from herd.core.state.request import Counters, RequestId

M = canonical("m")
COLD = ModelInfo(name="m", engine=an_engine(), size_bytes=1, context_max_tokens=131_072, kv_bytes_per_token=1000)


def used(*lots: tuple[int, int]) -> WindowUsage:
    use = WindowUsage()
    for count, tokens in lots:
        for _ in range(count):
            use.learn(M, tokens)
    return use


def test_usual_size_is_none_for_few_requests() -> None:
    assert used((SAMPLES_MIN - 1, 900)).usual_tokens(M) is None
    assert WindowUsage().usual_tokens(M) is None and WindowUsage().samples(M) == 0


def test_usual_size_is_the_99th_percentile() -> None:
    assert used((995, 1000), (5, 100_000)).usual_tokens(M) == 1024
    assert (used((980, 1000), (20, 100_000)).usual_tokens(M) or 0) >= 100_000


@pytest.mark.parametrize("tokens", [1, 256, 257, 300, 1000, 1024, 1025, 5000, 40_000])
def test_usual_size_is_at_least_the_used_size_and_little_more(tokens: int) -> None:
    usual = used((100, tokens)).usual_tokens(M) or 0
    assert tokens <= usual <= max(256, tokens * 1.2)


def test_requests_beyond_the_largest_size_count_as_the_largest() -> None:
    assert used((100, 10**9)).usual_tokens(M) == edge_tokens(SIZES - 1)


def test_old_requests_count_less() -> None:
    use = used((4000, 60_000), (40_000, 500))
    assert use.samples(M) <= HALVED_AT and (use.usual_tokens(M) or 0) < 600


def test_usage_is_restored_and_invalid_values_are_rejected() -> None:
    before, after = used((100, 3000)), WindowUsage()
    for memory in before.changes():
        after.restore(memory)
    assert after.usual_tokens(M) == before.usual_tokens(M) and not before.changes()
    for numbers in ({"99": 1.0}, {"x": 1.0}, {"3": -1.0}, {"3": float("nan")}):
        with pytest.raises(ValueError, match="range"):
            WindowUsage().restore(LearnedValue(WINDOW_USE, "", "m", numbers))


def test_chosen_window_has_slack_and_bounds() -> None:
    assert chosen_tokens(None, 8192) is None
    assert [chosen_tokens(tokens, None) for tokens in (300, 3200, 3300, 20_000)] == [
        WINDOW_MIN_TOKENS,
        4096,
        8192,
        32_768,
    ]
    assert chosen_tokens(20_000, 10_000) == 10_000


def test_report_shows_the_memory_that_a_change_would_free() -> None:
    fleet = Fleet()
    model_info = replace(COLD, loaded=Loaded(1, 32_768), engine=an_engine(slots=2))
    other = replace(model_info, name="other", engine=an_engine(kind="llamacpp"))
    fleet.apply_heartbeat(a_report("alpha", [model_info, other]), 0.0)
    [change] = window_changes(fleet, used((100, 5000)))
    assert (change.node_id, change.model, change.loaded_tokens, change.samples) == ("alpha", M, 32_768, 100)
    assert change.chosen_tokens == 8192 and change.frees_bytes == (32_768 - 8192) * 1000 * 2
    [unknown] = window_changes(fleet, WindowUsage())
    assert unknown.chosen_tokens is None and unknown.frees_bytes is None


def pin(
    model_info: ModelInfo, chosen: int | None, automatic: int = 0, num_ctx: int | None = None, **settings: bool
) -> EngineOptions | None:
    windows = Windows(WindowSettings(**settings))  # type: ignore[arg-type]
    if automatic:
        windows.record_load(NodeId("alpha"), M, is_automatic=True)
        windows.apply_heartbeat(
            Fleet().apply_heartbeat(a_report("alpha", [replace(model_info, loaded=Loaded(1, automatic))]), 0.0)
        )
    return windows.engine_options(
        a_request(window_tokens=num_ctx, wanted_window_tokens=num_ctx), NodeId("alpha"), M, model_info, 10.0, chosen
    )


def test_load_gets_the_window_by_use_only_if_enabled() -> None:
    assert pin(COLD, 8192) is None and pin(COLD, None, dynamic=True) is None
    assert pin(COLD, 8192, dynamic=True) == EngineOptions(8192)
    assert pin(COLD, 8192, auto_calculate=True) is None


def test_window_below_the_default_is_set_only_if_enabled() -> None:
    assert pin(COLD, 8192, automatic=32_768, dynamic=True) is None
    assert pin(COLD, 8192, automatic=32_768, dynamic=True, auto_calculate=True) == EngineOptions(8192)


def test_loaded_model_is_not_reloaded_for_its_use_and_a_client_may_want_more() -> None:
    loaded = replace(COLD, loaded=Loaded(1, 32_768, context_explicit=False))
    assert pin(loaded, 8192, dynamic=True, auto_calculate=True) is None
    assert pin(COLD, 8192, num_ctx=16_384, dynamic=True) is None, "its own num_ctx is larger"
    assert pin(COLD, 8192, num_ctx=2048, dynamic=True) == EngineOptions(8192)


def test_request_that_loads_a_model_gets_the_window_by_use() -> None:
    world = a_world(windows=Windows(WindowSettings(dynamic=True)))
    for _ in range(100):
        world.dispatcher.forecast.window_usage.learn(M, 5000)
    world.receives(a_report("alpha", [COLD]))
    [dispatch] = world.arrives()
    assert isinstance(dispatch, Dispatch) and dispatch.options == EngineOptions(8192)


def test_completed_answers_teach_prompt_plus_answer_tokens() -> None:
    world = a_world()
    world.receives(a_report("alpha", [COLD]))
    for number in range(SAMPLES_MIN):
        world.now += 1.0
        world.arrives(f"r{number}")
        world.feed(AttemptFinished(world.now, RequestId(f"r{number}"), 1, Counters(3000, 500)))
    assert world.dispatcher.forecast.window_usage.usual_tokens(M) in range(3500, 4200)
