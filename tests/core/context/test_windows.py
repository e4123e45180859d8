"""Tests which context window and options a request gets, and when it is sent unchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import a_report, an_engine
from herd.core.context.windows import (
    WINDOW_MIN_TOKENS,
    EngineOptions,
    Windows,
    WindowSettings,
    need_tokens,
    round_up_window,
    truncation_limit_tokens,
    was_truncated,
)
from herd.core.state.fleet import Fleet, Loaded, ModelInfo, NodeId, canonical
from herd.core.state.request import Request, RequestId, RequestKind

M, ALPHA = canonical("m"), NodeId("alpha")


def a_request(window_tokens: int | None = None, wanted_window_tokens: int | None = None, **more: Any) -> Request:
    return Request(
        id=RequestId("r1"),
        model=M,
        kind=more.pop("kind", RequestKind.CHAT),
        wanted_window_tokens=wanted_window_tokens or window_tokens,
        window_tokens=window_tokens,
        **more,
    )


def loaded(tokens: int | None = 8192, explicit: bool | None = None, most: int | None = 131_072) -> ModelInfo:
    return ModelInfo(
        name="m",
        engine=an_engine(),
        size_bytes=1,
        context_max_tokens=most,
        loaded=Loaded(1, tokens, context_explicit=explicit),
    )


def pin(request: Request, model_info: ModelInfo, prompt_tokens: float = 100.0, **settings: str) -> EngineOptions | None:
    return Windows(WindowSettings(**settings)).engine_options(request, ALPHA, M, model_info, prompt_tokens)


@pytest.mark.parametrize("num_ctx", [None, 2048, 4096, 8191])
def test_loaded_window_is_set_exactly_if_it_is_large_enough(num_ctx: int | None) -> None:
    assert pin(a_request(num_ctx), loaded(8192)) == EngineOptions(8192)


def test_request_with_the_same_effect_is_passed_through() -> None:
    assert pin(a_request(8192), loaded(8192)) is None
    assert pin(a_request(), loaded(4096, explicit=False)) is None, (
        "the engine chose this window by default and will choose it again"
    )


def test_request_that_needs_a_larger_window_gets_it() -> None:
    assert pin(a_request(16384), loaded(8192)) is None, "its own num_ctx is the same already"
    assert pin(a_request(2048, wanted_window_tokens=9000), loaded(8192), 8000.0) == EngineOptions(16384)


def test_window_beyond_the_maximum_of_the_model_causes_no_reload() -> None:
    assert pin(a_request(20000), loaded(8192, most=8192)) == EngineOptions(8192)


def test_cold_model_is_loaded_with_the_window_of_the_client_or_of_the_prompt() -> None:
    cold = replace(loaded(), loaded=None)
    assert pin(a_request(), cold) is None and pin(a_request(2048), cold) is None
    assert pin(a_request(wanted_window_tokens=10000), cold, 9000.0) == EngineOptions(16384)


def test_options_that_would_reload_the_model_are_dropped() -> None:
    assert pin(a_request(8192, has_runner_options=True), loaded(8192)) == EngineOptions(8192, drops_options=True)
    assert pin(a_request(has_runner_options=True), replace(loaded(), loaded=None)) == EngineOptions(
        None, drops_options=True
    )


def test_truncation_is_forbidden_for_a_prompt_near_the_window() -> None:
    forbidden = EngineOptions(4096, forbids_truncation=True, may_enlarge=True)
    assert pin(a_request(4096), loaded(4096), prompt_tokens=4100.0) == forbidden
    assert pin(a_request(4096), loaded(4096), prompt_tokens=4100.0, overflow="cut") is None


def test_a_prompt_with_more_bytes_than_the_window_has_tokens_is_never_truncated() -> None:
    """A tokenizer may need a token for each byte; the estimate of 1,025 stands for 4,100 bytes."""
    forbidden = EngineOptions(4096, forbids_truncation=True, may_enlarge=True)
    assert pin(a_request(4096, prompt_tokens=1025), loaded(4096), prompt_tokens=1025.0) == forbidden
    assert pin(a_request(4096, prompt_tokens=1024), loaded(4096), prompt_tokens=1024.0) is None


def test_strict_mode_never_truncates_and_never_enlarges() -> None:
    assert pin(a_request(4096), loaded(4096), overflow="strict") == EngineOptions(4096, forbids_truncation=True)
    assert pin(a_request(wanted_window_tokens=9000), loaded(4096), 8000.0, overflow="strict") == EngineOptions(
        4096, forbids_truncation=True
    )


def test_passthrough_changes_nothing_and_warn_only_warns() -> None:
    asked = a_request(2048, has_runner_options=True)
    assert pin(asked, loaded(8192), protection="passthrough") is None
    warned = pin(asked, loaded(8192), protection="warn")
    assert warned is not None and warned.warning and warned == EngineOptions(warning=warned.warning)
    assert pin(a_request(8192), loaded(8192), protection="warn") is None


@pytest.mark.parametrize(
    ("request_", "model_info"),
    [
        (a_request(2048, kind=RequestKind.EMBED), loaded()),
        (a_request(2048), replace(loaded(), engine=an_engine(kind="llamacpp"))),
        (a_request(2048), loaded(None)),
    ],
)
def test_engines_without_windows_get_no_options(request_: Request, model_info: ModelInfo) -> None:
    assert pin(request_, model_info) is None


def test_default_window_of_a_load_is_learned_and_forgotten_with_its_node() -> None:
    windows, fleet = Windows(WindowSettings()), Fleet()
    windows.record_load(ALPHA, M, is_automatic=True)
    node = fleet.apply_heartbeat(a_report("alpha", [loaded(32768)]), 0.0)
    windows.apply_heartbeat(node)
    assert windows.engine_options(a_request(), ALPHA, M, loaded(32768), 10.0) is None
    assert windows.engine_options(a_request(), ALPHA, M, loaded(16384), 10.0) == EngineOptions(16384), (
        "somebody has loaded it otherwise since"
    )
    windows.forget(ALPHA)
    assert windows.engine_options(a_request(), ALPHA, M, loaded(32768), 10.0) == EngineOptions(32768)


def test_a_window_that_was_just_sent_stays_until_a_heartbeat_shows_it() -> None:
    """A heartbeat is up to some seconds old: a request without the window would load the model again."""
    windows = Windows(WindowSettings())
    cold = replace(loaded(), loaded=None)
    windows.record_window(ALPHA, M, 8192)
    for reported in (cold, loaded(4096, explicit=False)):
        assert windows.engine_options(a_request(), ALPHA, M, reported, 100.0) == EngineOptions(8192)
    assert windows.engine_options(a_request(), NodeId("beta"), M, cold, 100.0) is None
    fleet = Fleet()
    windows.apply_heartbeat(fleet.apply_heartbeat(a_report("alpha", [cold]), 1.0))
    assert windows.engine_options(a_request(), ALPHA, M, cold, 100.0) is None


def test_load_with_an_explicit_window_teaches_nothing() -> None:
    windows, fleet = Windows(WindowSettings()), Fleet()
    windows.record_load(ALPHA, M, is_automatic=False)
    windows.apply_heartbeat(fleet.apply_heartbeat(a_report("alpha", [loaded(32768)]), 0.0))
    assert windows.engine_options(a_request(), ALPHA, M, loaded(32768), 10.0) == EngineOptions(32768)


def test_only_a_prompt_beyond_the_default_window_wants_a_window() -> None:
    windows = Windows(WindowSettings())
    assert windows.needed(a_request(), 1000.0) is None and windows.needed(a_request(2048), 1000.0) == 2048
    assert windows.needed(a_request(), 8000.0) == need_tokens(8000.0, None) > 8800
    assert windows.needed(a_request(32768), 8000.0) == 32768
    assert Windows(WindowSettings(overflow="cut")).needed(a_request(2048), 8000.0) == 2048


def test_windows_are_powers_of_two_within_the_maximum_of_the_model() -> None:
    sizes = [round_up_window(tokens, None) for tokens in (1, 4097, 9000, 65536)]
    assert sizes == [WINDOW_MIN_TOKENS, 8192, 16384, 65536]
    assert round_up_window(9000, 10000) == 10000


@pytest.mark.parametrize("protection", ["passthrough", "warn", "strip"])
@pytest.mark.parametrize("kind", [RequestKind.CHAT, RequestKind.GENERATE, RequestKind.EMBED])
def test_strict_mode_forbids_truncation_for_every_kind_of_prompt(protection: str, kind: RequestKind) -> None:
    for num_ctx in (None, 2048, 8192):
        options = pin(a_request(num_ctx, kind=kind), loaded(8192), protection=protection, overflow="strict")
        assert options is not None and options.forbids_truncation and not options.changes_nothing


def test_options_with_only_a_warning_change_nothing() -> None:
    assert (
        EngineOptions(warning="w").changes_nothing
        and not EngineOptions(8192).changes_nothing
        and not EngineOptions(output_tokens_max=5).changes_nothing
    )


def test_prompt_may_be_truncated_only_if_nothing_forbids_it() -> None:
    assert truncation_limit_tokens(None, a_request(), loaded(8192)) == 8192
    assert truncation_limit_tokens(None, a_request(2048), loaded(8192)) == 2048
    assert truncation_limit_tokens(EngineOptions(4096), a_request(2048), loaded(8192)) == 4096
    assert truncation_limit_tokens(EngineOptions(4096, forbids_truncation=True), a_request(), loaded(8192)) is None
    assert truncation_limit_tokens(None, a_request(), replace(loaded(), loaded=None)) is None
    assert truncation_limit_tokens(None, a_request(), replace(loaded(), engine=an_engine(kind="llamacpp"))) is None


@pytest.mark.parametrize(
    ("expected", "counted", "window", "is_truncated"),
    [
        (6000.0, 4096, 4096, True),
        (6000.0, 2050, 4096, True),
        (6000.0, 6010, 4096, False),
        (3000.0, 2900, 4096, False),
        (4200.0, 4000, 4096, False),
        (6000.0, None, 4096, False),
        (6000.0, 2050, None, False),
    ],
)
def test_truncation_is_detected_by_the_token_count(
    expected: float, counted: int | None, window: int | None, is_truncated: bool
) -> None:
    assert was_truncated(expected, counted, window) is is_truncated
