"""Tests the seven public signals: names, ranges and steps are as documented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_capacity, a_model_info, a_report, a_request, all_signals
from herd.core.scheduling.signals import Weights
from herd.core.state.decision import Candidate
from herd.core.state.fleet import GB, Fleet, ModelInfo, NodeId, Report, canonical
from herd.core.state.queues import Queue

SIGNALS = {signal.name: signal for signal in all_signals()}


def a_candidate(model_info: ModelInfo, report: Report | None = None, warm: bool = False, **more: object) -> Candidate:
    model = canonical(model_info.name)
    node = Fleet().apply_heartbeat(report or a_report(models=[model_info]), 100.0)
    if warm:
        node.unloaded_at[model] = 90.0
    more.setdefault("is_warm", model in node.unloaded_at)
    return Candidate(node=node, report=node.report, model_info=model_info, model=model, at=100.0, **more)  # type: ignore[arg-type]


def a_queue() -> Queue:
    return Queue(NodeId("alpha"), canonical("m"))


def points(name: str, candidate: Candidate, prompt_tokens: int = 100) -> float:
    return SIGNALS[name].points(a_request(prompt_tokens=prompt_tokens), candidate, Weights())


def test_seven_signals_have_their_public_names() -> None:
    expected = {
        "thermal",
        "memory_fit",
        "queue_depth",
        "wait_time",
        "role_affinity",
        "availability_trend",
        "context_fit",
    }
    assert set(SIGNALS) == expected


@pytest.mark.parametrize(
    ("loaded", "warm", "expected"), [(True, False, 50), (True, True, 50), (False, True, 30), (False, False, 10)]
)
def test_thermal_distinguishes_hot_warm_and_cold(loaded: bool, warm: bool, expected: float) -> None:
    assert points("thermal", a_candidate(a_model_info(loaded=loaded), warm=warm)) == expected


@pytest.mark.parametrize(("free_gb", "expected"), [(21, 20), (20, 15), (16, 15), (15, 8), (13, 8), (12, 3), (10.5, 3)])
def test_memory_fit_steps(free_gb: float, expected: float) -> None:
    model_info = a_model_info(size_gb=10)
    report = a_report(models=[model_info], memory_gb=64, used_gb=64 - free_gb)
    assert points("memory_fit", a_candidate(model_info, report)) == expected


def test_memory_of_idle_models_counts_as_free_and_that_of_busy_models_does_not() -> None:
    model_info, other = a_model_info("m", size_gb=10), a_model_info("other", size_gb=20, loaded=True)
    report = a_report(models=[model_info, other], memory_gb=32, used_gb=28)
    assert a_candidate(model_info, report).free_bytes == 24 * GB
    assert a_candidate(model_info, report, busy={canonical("other"): a_queue()}).free_bytes == 4 * GB


def test_memory_of_the_loaded_model_counts_as_available_to_it() -> None:
    model_info = a_model_info(size_gb=20, loaded=True)
    report = a_report(models=[model_info], memory_gb=24, used_gb=21)
    assert a_candidate(model_info, report, busy={canonical("m"): a_queue()}).free_bytes == 23 * GB


@pytest.mark.parametrize(
    ("in_flight", "pending", "expected"), [(0, 0, 0), (1, 0, -6), (1, 2, -18), (4, 1, -30), (9, 9, -30)]
)
def test_queue_depth_costs_six_points_each_up_to_thirty(in_flight: int, pending: int, expected: float) -> None:
    assert points("queue_depth", a_candidate(a_model_info(), in_flight=in_flight, pending=pending)) == expected


@pytest.mark.parametrize(
    ("p75_s", "depth", "expected"), [(None, 3, 0), (10.0, 0, 0), (10.0, 3, -3.0), (80.0, 2, -16.0), (100.0, 9, -25)]
)
def test_wait_time_is_latency_times_depth_over_ten_seconds(p75_s: float | None, depth: int, expected: float) -> None:
    assert points("wait_time", a_candidate(a_model_info(), in_flight=depth, latency_p75_s=p75_s)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("model_gb", "memory_gb", "expected"),
    [
        (40, 192, 15),
        (40, 128, 15),
        (40, 64, 5),
        (40, 32, 5),
        (40, 16, 0),
        (2, 16, 15),
        (2, 32, 15),
        (2, 128, 8),
        (2, 192, 3),
        (12, 64, 0),
    ],
)
def test_role_affinity_steps(model_gb: float, memory_gb: float, expected: float) -> None:
    model_info = a_model_info(size_gb=model_gb)
    assert (
        points("role_affinity", a_candidate(model_info, a_report(models=[model_info], memory_gb=memory_gb))) == expected
    )


@pytest.mark.parametrize(("trend", "expected"), [("rising", 10), ("stable", 5), ("falling", 0)])
def test_availability_trend_of_a_learning_node(trend: str, expected: float) -> None:
    model_info = a_model_info()
    report = a_report(models=[model_info], capacity=a_capacity(trend))
    assert points("availability_trend", a_candidate(model_info, report)) == expected


def test_availability_trend_is_0_without_learned_availability() -> None:
    assert points("availability_trend", a_candidate(a_model_info())) == 0


@pytest.mark.parametrize(
    ("window", "tokens", "expected"),
    [(4096, 5000, -15), (4096, 4096, 3), (4096, 3000, 3), (4096, 2000, 7), (4096, 1000, 12), (4096, 100, 15)],
)
def test_context_fit_steps(window: int, tokens: int, expected: float) -> None:
    model_info = a_model_info(loaded=True, context_tokens=window)
    assert points("context_fit", a_candidate(model_info), prompt_tokens=tokens) == expected


def test_context_fit_is_0_if_the_model_is_not_loaded() -> None:
    assert points("context_fit", a_candidate(a_model_info()), prompt_tokens=99999) == 0


@given(
    loaded=st.booleans(),
    warm=st.booleans(),
    size_gb=st.floats(0, 500),
    memory_gb=st.floats(0.1, 1000),
    used_share=st.floats(0, 1),
    depth=st.integers(0, 1000),
    p75_s=st.none() | st.floats(0, 1e6),
    tokens=st.integers(0, 10**7),
    window=st.integers(0, 10**7),
)
def test_every_signal_stays_in_its_range_for_any_candidate(
    loaded: bool,
    warm: bool,
    size_gb: float,
    memory_gb: float,
    used_share: float,
    depth: int,
    p75_s: float | None,
    tokens: int,
    window: int,
) -> None:
    model_info = a_model_info(size_gb=size_gb, loaded=loaded, context_tokens=window)
    report = a_report(models=[model_info], memory_gb=memory_gb, used_gb=memory_gb * used_share)
    candidate = a_candidate(model_info, report, warm=warm, in_flight=depth, latency_p75_s=p75_s)
    for signal in SIGNALS.values():
        value = signal.points(a_request(prompt_tokens=tokens), candidate, Weights())
        assert signal.low <= value <= signal.high, signal.name
