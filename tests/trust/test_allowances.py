"""Tests the limits of API keys and when they end."""

from __future__ import annotations

import dataclasses

from herd.trust import allowances
from herd.trust.allowances import Allowances
from herd.trust.keys import ApiKey, Scope

KEY = ApiKey(id="id", name="app", digest="", scopes=frozenset({Scope.CHAT}), created_at=0.0)


def limited(**limits: int) -> ApiKey:
    return dataclasses.replace(KEY, **limits)  # type: ignore[arg-type]


def test_a_key_without_limits_is_never_refused() -> None:
    allowed = Allowances()
    assert all(allowed.start_request(KEY, 0.0, "2026-11") is None for _ in range(1000))


def test_the_limit_per_minute_refuses_with_the_time_to_wait() -> None:
    allowed, key = Allowances(), limited(requests_per_minute=6)
    assert all(allowed.start_request(key, 0.0, "m") is None for _ in range(6))
    refusal = allowed.start_request(key, 0.0, "m")
    assert refusal is not None and refusal.status == 429 and refusal.retry_after_s == 10
    assert allowed.start_request(key, 9.9, "m") is not None
    assert allowed.start_request(key, 10.1, "m") is None


def test_the_limit_of_concurrent_requests() -> None:
    allowed, key = Allowances(), limited(concurrent_max=2)
    assert allowed.start_request(key, 0.0, "m") is None and allowed.start_request(key, 0.0, "m") is None
    refusal = allowed.start_request(key, 0.0, "m")
    assert refusal is not None and refusal.code == "too_many_at_once"
    allowed.finish_request(key.id, 0)
    assert allowed.start_request(key, 0.0, "m") is None


def test_a_refused_request_uses_no_allowance() -> None:
    allowed, key = Allowances(), limited(concurrent_max=1, requests_per_minute=2)
    assert allowed.start_request(key, 0.0, "m") is None
    for _ in range(5):
        assert allowed.start_request(key, 0.0, "m") is not None
    allowed.finish_request(key.id, 0)
    assert allowed.start_request(key, 0.0, "m") is None


def test_the_monthly_limit_starts_again_with_the_next_month() -> None:
    allowed, key = Allowances(), limited(tokens_per_month=100)
    assert allowed.start_request(key, 0.0, "2026-11") is None
    allowed.finish_request(key.id, 100)
    refusal = allowed.start_request(key, 1.0, "2026-11")
    assert refusal is not None and refusal.code == "budget_exhausted"
    assert allowed.start_request(key, 2.0, "2026-12") is None


def test_tokens_used_before_a_restart_count() -> None:
    allowed, key = Allowances(), limited(tokens_per_month=100)
    allowed.restore(key, 0.0, "2026-11", 100)
    assert allowed.start_request(key, 0.0, "2026-11") is not None


def test_the_number_of_tracked_keys_is_limited_and_busy_keys_stay() -> None:
    allowed = Allowances()
    first = dataclasses.replace(KEY, id="first", concurrent_max=1)
    assert allowed.start_request(first, 0.0, "m") is None
    for number in range(allowances.KEYS_MAX + 10):
        key = dataclasses.replace(KEY, id=f"k{number}")
        allowed.start_request(key, 0.0, "m")
        allowed.finish_request(key.id, 0)
    assert len(allowed) <= allowances.KEYS_MAX
    assert allowed.start_request(first, 0.0, "m") is not None
