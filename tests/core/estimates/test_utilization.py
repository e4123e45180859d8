"""Tests the mean share of used slots."""

from __future__ import annotations

import pytest

from herd.core.estimates import utilization
from herd.core.estimates.utilization import HORIZON_S, Utilization
from herd.core.state.fleet import ModelName, NodeId

NODE, MODEL = NodeId("a"), ModelName("m:latest")


def test_utilization_is_the_mean_share_of_used_slots_over_minutes() -> None:
    crowded = Utilization()
    assert crowded.share(NODE, MODEL, 5.0) == 0.0
    crowded.record_start(NODE, MODEL, running=2, slots=4, now=0.0)
    assert crowded.share(NODE, MODEL, 0.0) == 0.0
    assert 0.15 < crowded.share(NODE, MODEL, 0.5 * HORIZON_S) < 0.25
    assert crowded.share(NODE, MODEL, 20 * HORIZON_S) == pytest.approx(0.5)


def test_ended_requests_count_less_over_time() -> None:
    crowded = Utilization()
    crowded.record_start(NODE, MODEL, running=1, slots=1, now=0.0)
    crowded.record_end(NODE, MODEL, running=0, now=10 * HORIZON_S)
    assert crowded.share(NODE, MODEL, 10 * HORIZON_S) > 0.99
    assert 0.3 < crowded.share(NODE, MODEL, 11 * HORIZON_S) < 0.4
    assert crowded.share(NODE, MODEL, 30 * HORIZON_S) < 0.001


def test_full_half_of_the_time_equals_always_half_full() -> None:
    crowded, at = Utilization(), 0.0
    while at < 10 * HORIZON_S:
        crowded.record_start(NODE, MODEL, running=2, slots=2, now=at)
        crowded.record_end(NODE, MODEL, running=0, now=at + 1.0)
        at += 2.0
    assert crowded.share(NODE, MODEL, at) == pytest.approx(0.5, abs=0.02)


def test_share_is_at_most_1_and_time_never_runs_backwards() -> None:
    crowded = Utilization()
    crowded.record_start(NODE, MODEL, running=9, slots=4, now=100.0)
    assert crowded.share(NODE, MODEL, 50.0) == 0.0
    assert crowded.share(NODE, MODEL, 1e6) == pytest.approx(1.0)


def test_pairs_are_bounded_and_the_least_recently_used_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilization, "PAIRS_MAX", 2)
    crowded = Utilization()
    for number, name in enumerate(("a", "b", "a", "c")):
        crowded.record_start(NodeId(name), MODEL, running=1, slots=1, now=float(number))
    assert [crowded.share(NodeId(name), MODEL, 1e6) > 0 for name in ("a", "b", "c")] == [True, False, True]


def test_leaving_an_unknown_pair_changes_nothing() -> None:
    utilization = Utilization()
    utilization.record_end(NODE, MODEL, running=0, now=1.0)
    assert utilization.share(NODE, MODEL, 1.0) == 0.0
