"""Tests that keys, limits and budgets are not affected by a jump of the wall clock."""

from __future__ import annotations

import pytest

from herd.coordinator.clock_and_ids import TRUST_CLOCK_AFTER_S, SteadyClock
from herd.trust.allowances import Allowances
from herd.trust.keys import ApiKey
from herd.trust.rights import Scope

START = 1_700_000_000.0
DAY_S = 86_400.0
JUMPS_S = (-400 * DAY_S, -3 * 3600.0, 3 * 3600.0, 400 * DAY_S)


class Clocks:
    def __init__(self) -> None:
        self.monotonic_s, self.jump_s = 0.0, 0.0
        self.steady = SteadyClock(lambda: START + self.monotonic_s + self.jump_s, lambda: self.monotonic_s)
        self.steady.unix_s()


def a_key(expires_at: float = 0.0, requests_per_minute: int = 0, tokens_per_month: int = 0) -> ApiKey:
    return ApiKey(
        id="k1",
        name="laptop",
        digest="",
        scopes=frozenset({Scope.CHAT}),
        created_at=START,
        expires_at=expires_at,
        requests_per_minute=requests_per_minute,
        tokens_per_month=tokens_per_month,
    )


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_key_expires_neither_early_nor_late_by_a_jump(jump_s: float) -> None:
    clocks, key = Clocks(), a_key(expires_at=START + 7200.0)
    clocks.jump_s = jump_s
    assert key.is_valid(clocks.steady.unix_s())
    clocks.monotonic_s = TRUST_CLOCK_AFTER_S - 1
    assert key.is_valid(clocks.steady.unix_s())
    clocks.jump_s, clocks.monotonic_s = 0.0, 7200.0
    assert not key.is_valid(clocks.steady.unix_s())


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_monthly_budget_is_not_reset_by_a_jump(jump_s: float) -> None:
    clocks, key, allowances = Clocks(), a_key(tokens_per_month=100), Allowances()
    assert allowances.start_request(key, *clocks.steady.unix_month()) is None
    allowances.finish_request(key.id, 100)
    for clocks.jump_s in (jump_s, 0.0):
        refusal = allowances.start_request(key, *clocks.steady.unix_month())
        assert refusal is not None and refusal.code == "budget_exhausted"


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_limit_per_minute_is_neither_lifted_nor_made_longer_by_a_jump(jump_s: float) -> None:
    clocks, key, allowances = Clocks(), a_key(requests_per_minute=1), Allowances()
    assert allowances.start_request(key, *clocks.steady.unix_month()) is None
    clocks.jump_s = jump_s
    assert allowances.start_request(key, *clocks.steady.unix_month()) is not None
    clocks.jump_s, clocks.monotonic_s = 0.0, 61.0
    assert allowances.start_request(key, *clocks.steady.unix_month()) is None


def test_a_limit_per_minute_outlives_a_time_that_goes_backwards() -> None:
    key, allowances = a_key(requests_per_minute=2), Allowances()
    assert allowances.start_request(key, START, "2026-11") is None
    assert allowances.start_request(key, START - 400 * DAY_S, "2026-11") is None
    assert allowances.start_request(key, START - 400 * DAY_S + 61, "2026-11") is None
