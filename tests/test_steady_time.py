"""Tests that a jump of the wall clock is believed only when it stays."""

from __future__ import annotations

import pytest

from herd.steady_time import JUMP_MIN_S, SteadyTime, since_boot_s

START = 1_700_000_000.0
YEAR_S = 365 * 86_400.0
JUMPS_S = (-50 * YEAR_S, -400 * 86_400.0, -3600.0, 3600.0, 400 * 86_400.0, 50 * YEAR_S)


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_jump_that_is_undone_changes_nothing(jump_s: float) -> None:
    steady = SteadyTime(3600.0)
    assert steady.unix_s(START, 0.0) == START
    for second in range(1, 100):
        jump = jump_s if 10 < second < 90 else 0.0
        assert steady.unix_s(START + second + jump, float(second)) == START + second


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_jump_that_stays_is_believed_after_the_given_time(jump_s: float) -> None:
    steady = SteadyTime(3600.0)
    steady.unix_s(START, 0.0)
    assert steady.unix_s(START + 1 + jump_s, 1.0) == START + 1
    assert steady.unix_s(START + 3600 + jump_s, 3600.0) == START + 3600
    assert steady.unix_s(START + 3601 + jump_s, 3601.0) == START + 3601 + jump_s
    assert steady.unix_s(START + 3602 + jump_s, 3602.0) == START + 3602 + jump_s


def test_a_clock_that_keeps_jumping_is_never_believed() -> None:
    steady = SteadyTime(3600.0)
    steady.unix_s(START, 0.0)
    for hour in range(1, 100):
        assert steady.unix_s(START + hour * 7200 * 24, hour * 3600.0) == START + hour * 3600


def test_small_corrections_are_followed_at_once() -> None:
    steady = SteadyTime(3600.0)
    steady.unix_s(START, 0.0)
    assert steady.unix_s(START + 1 + JUMP_MIN_S, 1.0) == START + 1 + JUMP_MIN_S
    assert steady.unix_s(START + 2, 2.0) == START + 2


def test_a_given_start_is_believed_before_the_clock() -> None:
    steady = SteadyTime(86_400.0)
    steady.start_at(START, 0.0)
    assert steady.unix_s(START + YEAR_S, 5.0) == START + 5
    assert steady.unix_s(START + YEAR_S + 86_400, 86_405.0) == START + YEAR_S + 86_400


def test_the_clock_since_boot_only_grows() -> None:
    assert 0 < since_boot_s() <= since_boot_s()
