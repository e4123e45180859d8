"""A key's limits hold, and end when their time has passed."""

from __future__ import annotations

import dataclasses

from herd.trust import allowances
from herd.trust.allowances import Allowances
from herd.trust.keys import ApiKey, Scope

KEY = ApiKey("id", "app", "", frozenset({Scope.CHAT}), 0.0)


def limited(**limits: int) -> ApiKey:
    return dataclasses.replace(KEY, **limits)  # type: ignore[arg-type]


def test_without_limits_everything_may_come() -> None:
    uses = Allowances()
    assert all(uses.take(KEY, 0.0, "2026-11") is None for _ in range(1000))


def test_so_many_a_minute_then_the_time_to_wait_is_told() -> None:
    uses, key = Allowances(), limited(requests_per_minute=6)
    assert all(uses.take(key, 0.0, "m") is None for _ in range(6))
    refusal = uses.take(key, 0.0, "m")
    assert refusal is not None and refusal.status == 429 and refusal.retry_after_s == 10
    assert uses.take(key, 9.9, "m") is not None
    assert uses.take(key, 10.1, "m") is None


def test_so_many_at_the_same_time() -> None:
    uses, key = Allowances(), limited(concurrent_max=2)
    assert uses.take(key, 0.0, "m") is None and uses.take(key, 0.0, "m") is None
    refusal = uses.take(key, 0.0, "m")
    assert refusal is not None and refusal.code == "too_many_at_once"
    uses.give_back(key.id, 0)
    assert uses.take(key, 0.0, "m") is None


def test_a_refused_request_takes_nothing() -> None:
    uses, key = Allowances(), limited(concurrent_max=1, requests_per_minute=2)
    assert uses.take(key, 0.0, "m") is None
    for _ in range(5):
        assert uses.take(key, 0.0, "m") is not None
    uses.give_back(key.id, 0)
    assert uses.take(key, 0.0, "m") is None


def test_a_months_tokens_end_with_the_month() -> None:
    uses, key = Allowances(), limited(tokens_per_month=100)
    assert uses.take(key, 0.0, "2026-11") is None
    uses.give_back(key.id, 100)
    refusal = uses.take(key, 1.0, "2026-11")
    assert refusal is not None and refusal.code == "budget_exhausted"
    assert uses.take(key, 2.0, "2026-12") is None


def test_what_was_used_before_a_restart_counts() -> None:
    uses, key = Allowances(), limited(tokens_per_month=100)
    uses.recall(key, 0.0, "2026-11", 100)
    assert uses.take(key, 0.0, "2026-11") is not None


def test_only_so_many_keys_are_remembered_and_those_in_use_first() -> None:
    uses = Allowances()
    first = dataclasses.replace(KEY, id="first", concurrent_max=1)
    assert uses.take(first, 0.0, "m") is None
    for number in range(allowances.KEYS_MAX + 10):
        key = dataclasses.replace(KEY, id=f"k{number}")
        uses.take(key, 0.0, "m")
        uses.give_back(key.id, 0)
    assert len(uses) <= allowances.KEYS_MAX
    assert uses.take(first, 0.0, "m") is not None
