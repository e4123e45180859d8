"""Tests the availability of a machine, estimated from the local user's past weeks."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.agent.availability import (
    BUSY_FOR_S,
    HALF_LIFE_S,
    SLOTS,
    AvailabilityLearner,
    Override,
    Slot,
    UsageSample,
    ceiling,
    decode,
    encode,
    idle_share,
)
from herd.core.state.fleet import GB

MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 86400.0
SIZE = 128 * GB


def hour_of(at: float) -> int:
    return int(at // HOUR_S) % SLOTS


def a_sample(
    at: float, cpu: float = 0.0, memory: float = 0.9, is_serving: bool = False, in_meeting: bool = False
) -> UsageSample:
    return UsageSample(at, hour_of(at), cpu, memory, is_serving, in_meeting)


def works_from_nine_to_five(at: float) -> float:
    hour = hour_of(at)
    return 0.95 if hour < 5 * 24 and 9 <= hour % 24 < 17 else 0.05


def observed(days: float, cpu_at=works_from_nine_to_five) -> AvailabilityLearner:  # noqa: ANN001
    learner = AvailabilityLearner()
    for minute in range(int(days * DAY_S / MINUTE_S) + 1):
        at = minute * MINUTE_S
        learner.observe(a_sample(at, cpu_at(at)))
    return learner


def test_the_machine_is_unavailable_in_the_first_week() -> None:
    learner = observed(6.9, lambda at: 0.0)
    capacity = learner.capacity(SIZE)
    assert (capacity.mode, capacity.ceiling_bytes, capacity.paused) == ("bootstrap", 0, True)
    learner.observe(a_sample(7 * DAY_S))
    assert learner.capacity(SIZE).mode == "full"


def test_busy_and_idle_hours_of_the_week_have_different_scores() -> None:
    learner = observed(14)
    monday_at_ten, sunday_at_ten = 14 * DAY_S + 10 * HOUR_S, 20 * DAY_S + 10 * HOUR_S
    assert learner.score(a_sample(monday_at_ten)) < 0.6 < 0.85 < learner.score(a_sample(sunday_at_ten))


def test_old_samples_lose_half_of_their_weight_in_fifteen_days() -> None:
    slot = Slot()
    slot.add(a_sample(0.0, cpu=1.0), 100.0)
    slot.add(a_sample(HALF_LIFE_S, cpu=0.0), 100.0)
    assert slot.cpu == pytest.approx(1.0 / 3.0)
    assert slot.observed_s_at(2 * HALF_LIFE_S) == pytest.approx(75.0)


@pytest.mark.parametrize(
    ("score", "mode", "available_gb"),
    [
        (0.8, "full", 409.6),
        (0.79, "learned_high", 64),
        (0.6, "learned_high", 64),
        (0.4, "learned_medium", 32),
        (0.2, "learned_low", 16),
        (0.19, "paused", 0),
    ],
)
def test_a_score_gives_the_public_memory_shares(score: float, mode: str, available_gb: float) -> None:
    assert ceiling(score, 512 * GB) == (mode, int(available_gb * GB))


@pytest.mark.parametrize(("score", "available_gb"), [(0.8, 25.6), (0.6, 16), (0.4, 8), (0.2, 4)])
def test_a_small_machine_is_limited_by_shares_not_by_bytes(score: float, available_gb: float) -> None:
    assert ceiling(score, 32 * GB)[1] == int(available_gb * GB)


def test_requests_of_the_fleet_do_not_lower_the_availability() -> None:
    learner = observed(14, lambda at: 0.0)
    before, at = learner.capacity(SIZE), 14 * DAY_S
    for second in range(0, 600, 5):
        learner.observe(a_sample(at + second, cpu=1.0, is_serving=True))
    assert learner.capacity(SIZE).ceiling_bytes == before.ceiling_bytes


def test_two_minutes_of_high_cpu_use_lower_the_ceiling_until_the_use_falls() -> None:
    learner = observed(14, lambda at: 0.0)
    at = 14 * DAY_S
    learner.observe(a_sample(at, cpu=0.9))
    learner.observe(a_sample(at + BUSY_FOR_S - 1, cpu=0.9))
    assert learner.capacity(SIZE).reason != "sustained_high_cpu"
    learner.observe(a_sample(at + BUSY_FOR_S, cpu=0.9))
    capped = learner.capacity(SIZE)
    assert (capped.reason, capped.override_active) == ("sustained_high_cpu", True) and capped.ceiling_bytes <= 16 * GB
    learner.observe(a_sample(at + BUSY_FOR_S + 5, cpu=0.1))
    assert learner.capacity(SIZE).reason != "sustained_high_cpu"


def test_a_meeting_pauses_and_the_owners_word_outweighs_it_while_it_holds() -> None:
    learner = observed(14, lambda at: 0.0)
    at = 14 * DAY_S
    learner.observe(a_sample(at, in_meeting=True))
    assert learner.capacity(SIZE).paused and learner.capacity(SIZE).reason == "meeting_detected"
    learner.override = Override("full", at + 10)
    assert learner.capacity(SIZE).ceiling_bytes == int(0.8 * SIZE)
    learner.observe(a_sample(at + 10, in_meeting=True))
    assert learner.capacity(SIZE).paused
    learner.override = Override("paused", at + 100)
    learner.observe(a_sample(at + 11))
    assert learner.capacity(SIZE).mode == "paused"


def test_an_owner_who_leaves_makes_the_trend_rise_and_one_who_comes_makes_it_fall() -> None:
    learner = observed(1, lambda at: 0.9)
    at = DAY_S
    learner.observe(a_sample(at + 60, cpu=0.0))
    assert learner.trend == "rising"
    for minute in range(2, 60):
        learner.observe(a_sample(at + minute * 60, cpu=0.0))
    assert learner.trend == "stable"
    learner.observe(a_sample(at + HOUR_S, cpu=0.9))
    assert learner.trend == "falling"


def test_a_slot_without_samples_gives_its_weight_to_the_present() -> None:
    learner = AvailabilityLearner()
    learner.observe(a_sample(0.0))
    assert learner.score(a_sample(0.0)) == pytest.approx(0.9)


def test_a_gap_counts_as_one_minute_and_a_clock_that_is_set_back_as_no_time() -> None:
    learner = AvailabilityLearner()
    learner.observe(a_sample(0.0))
    learner.observe(a_sample(8 * HOUR_S))
    learner.observe(a_sample(1 * HOUR_S, cpu=1.0))
    assert [learner.slots[hour].observed_s for hour in (0, 1, 8)] == [0.0, 0.0, 60.0]


def test_confidence_grows_with_days_and_stays_between_0_and_1() -> None:
    values = [observed(days).confidence for days in (0.0, 3.0, 8.0, 35.0)]
    assert values == sorted(values) and values[0] == 0.0 and 0.9 < values[-1] <= 1.0


def test_short_memory_lowers_the_idle_share_of_an_idle_machine() -> None:
    assert idle_share(0.0, 0.5) == idle_share(0.0, 0.25) == 1.0 and idle_share(0.0, 0.1) == pytest.approx(0.4)


def test_the_estimates_survive_a_restart() -> None:
    learner = observed(10)
    learner.override = Override("paused", 11 * DAY_S)
    again = decode(encode(learner))
    next_sample = a_sample(10 * DAY_S + 5)
    assert again.slots == learner.slots and again.first_at == learner.first_at and again.override == learner.override
    again.observe(next_sample)
    assert again.capacity(SIZE).mode == "paused" and again.days_observed == 10


def test_the_state_of_ollama_herd_is_converted() -> None:
    samples = [{"ts": 100.0 + 5 * n, "cpu": 80.0, "mem": 40.0} for n in range(721)]
    slots = [{"observations": samples if n == 3 else []} for n in range(SLOTS)]
    body = json.dumps(
        {"first_observation": 100.0, "manual_override": None, "slots": slots, "saved_at": 5000.0}
    ).encode()
    learner = decode(body)
    assert learner.slots[3].cpu == pytest.approx(0.8) and learner.slots[3].memory_available == pytest.approx(0.6)
    assert learner.slots[3].observed_s == pytest.approx(HOUR_S, rel=0.01) and learner.first_at == 100.0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"slots":[]}', b'{"slots":[' + b"{}," * 167 + b'{"watched_s":-1}]}', b"\xff"]
)
def test_an_invalid_state_is_rejected_with_a_reason(body: bytes) -> None:
    with pytest.raises(ValueError, match="the state"):
        decode(body)


@given(st.binary(max_size=200))
def test_decoding_raises_only_value_errors(body: bytes) -> None:
    try:
        decode(body)
    except ValueError:
        return


@pytest.mark.parametrize("seed", range(5))
def test_score_and_ceiling_stay_in_range_for_random_samples(seed: int) -> None:
    rng, learner, at = Random(seed), AvailabilityLearner(), 0.0
    for _ in range(3000):
        at += rng.choice([0.0, 5.0, 60.0, 4000.0, -300.0])
        learner.observe(a_sample(at, rng.random() * 1.2, rng.random(), rng.random() < 0.2, rng.random() < 0.1))
        capacity = learner.capacity(SIZE)
        assert 0.0 <= capacity.score <= 1.0 and 0 <= capacity.ceiling_bytes <= 0.8 * SIZE, f"seed {seed}"
        assert 0.0 <= capacity.learning_confidence <= 1.0 and capacity.trend in ("rising", "stable", "falling")


YEARS_S = (-50 * 365 * DAY_S, -400 * DAY_S, -10 * DAY_S, 400 * DAY_S, 50 * 365 * DAY_S)


@pytest.mark.parametrize(
    ("jump_s", "is_undone"),
    [(-5 * HOUR_S, False), *((jump_s, undone) for jump_s in YEARS_S for undone in (False, True))],
)
def test_a_clock_that_is_set_loses_nothing_and_counts_as_no_time(jump_s: float, is_undone: bool) -> None:
    learner, now = observed(14), 14 * DAY_S
    monday, sunday = 10, 6 * 24 + 10
    before = [learner.score(UsageSample(now, hour, 0.05, 0.9)) for hour in (monday, sunday)]
    learner.override = Override("paused", now + HOUR_S)
    for minute in range(1, 20):
        learner.observe(UsageSample(now + jump_s + minute * MINUTE_S, 100, 0.05, 0.9))
    at = now + (0.0 if is_undone else jump_s)
    for minute in range(20, 30):
        learner.observe(UsageSample(at + minute * MINUTE_S, 100, 0.05, 0.9))
    after = [learner.score(UsageSample(at + 30 * MINUTE_S, hour, 0.05, 0.9)) for hour in (monday, sunday)]
    assert after == pytest.approx(before, abs=0.02)
    assert learner.days_observed == 14
    assert learner.capacity(SIZE).reason == "manual_override"
    learner.observe(UsageSample(at + 80 * MINUTE_S, 100, 0.05, 0.9))
    assert learner.capacity(SIZE).reason != "manual_override"


@pytest.mark.parametrize("wrong_at", [-30 * 365 * DAY_S, 40 * 365 * DAY_S])
def test_an_agent_that_starts_with_a_wrong_clock_keeps_what_it_learned(wrong_at: float) -> None:
    learner = observed(14)
    before = learner.score(UsageSample(14 * DAY_S, 10, 0.05, 0.9))
    started = decode(encode(learner))
    for minute in range(10):
        started.observe(UsageSample(wrong_at + minute * MINUTE_S, 100, 0.05, 0.9))
    for minute in range(10):
        started.observe(UsageSample(14 * DAY_S + HOUR_S + minute * MINUTE_S, 100, 0.05, 0.9))
    assert started.score(UsageSample(14 * DAY_S + 2 * HOUR_S, 10, 0.05, 0.9)) == pytest.approx(before, abs=0.05)
    assert started.days_observed == 14


def test_a_clock_that_is_set_is_not_taken_for_sustained_use() -> None:
    learner = observed(14)
    learner.observe(a_sample(14 * DAY_S + MINUTE_S, 0.99))
    learner.observe(a_sample(414 * DAY_S, 0.99))
    assert learner.capacity(SIZE).reason != "sustained_high_cpu"
