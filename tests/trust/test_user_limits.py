"""Tests the limits of each user, per moment, minute and day, and that other users are not affected."""

from __future__ import annotations

from herd.core.state.fleet import ModelName
from herd.core.state.request import Request, RequestId
from herd.trust.user_limits import DAY_S, USERS_MAX, UserLimits, UserLimitSettings, limited_user

NOON = 20_000 * DAY_S + DAY_S / 2


def codes(limits: UserLimits, user: str, at: float, count: int) -> list[str]:
    refusals = [limits.start_request(user, at) for _ in range(count)]
    assert all(one is None or (one.status == 429 and one.retry_after_s) for one in refusals)
    return [one.code if one is not None else "" for one in refusals]


def test_concurrent_requests_of_one_user() -> None:
    limits = UserLimits(UserLimitSettings(concurrent_max=2))
    assert codes(limits, "ann", NOON, 3) == ["", "", "user_too_many_at_once"]
    assert codes(limits, "bob", NOON, 1) == [""]
    limits.finish_request("ann", 10)
    assert codes(limits, "ann", NOON, 2) == ["", "user_too_many_at_once"]


def test_requests_per_minute_refill_steadily() -> None:
    limits = UserLimits(UserLimitSettings(requests_per_minute=6))
    assert codes(limits, "ann", NOON, 7) == [""] * 6 + ["user_rate_limited"]
    refusal = limits.start_request("ann", NOON + 1.0)
    assert refusal is not None and refusal.retry_after_s == 9
    assert codes(limits, "ann", NOON + 10.0, 2) == ["", "user_rate_limited"]


def test_tokens_per_day_until_the_next_day() -> None:
    limits = UserLimits(UserLimitSettings(tokens_per_day=100))
    assert codes(limits, "ann", NOON, 1) == [""]
    limits.finish_request("ann", 100)
    refusal = limits.start_request("ann", NOON)
    assert refusal is not None and (refusal.code, refusal.retry_after_s) == ("user_budget_exhausted", DAY_S / 2)
    assert codes(limits, "bob", NOON, 1) == [""]
    assert codes(limits, "ann", NOON + DAY_S / 2, 1) == [""]


def test_gpu_seconds_count_every_attempt_and_survive_a_restart() -> None:
    settings = UserLimitSettings(gpu_s_per_day=60.0)
    limits = UserLimits(settings)
    assert codes(limits, "ann", NOON, 1) == [""]
    limits.use("ann", 59.0)
    assert codes(limits, "ann", NOON, 1) == [""]
    limits.use("ann", 2.0)
    assert codes(limits, "ann", NOON, 1) == ["user_budget_exhausted"]
    restarted = UserLimits(settings)
    restarted.restore("ann", NOON, 0, 61.0)
    assert codes(restarted, "ann", NOON, 1) == ["user_budget_exhausted"]


def test_limits_count_against_the_user_else_the_tenant() -> None:
    request = Request(id=RequestId("r"), model=ModelName("m"), tenant="key web", member="ann", user="ann")
    assert limited_user(request) == "user ann"
    request.user = ""
    assert limited_user(request) == "key web"


def test_number_of_tracked_users_is_bounded_and_running_ones_stay() -> None:
    limits = UserLimits(UserLimitSettings(concurrent_max=1))
    limits.start_request("runs", NOON)
    for number in range(2 * USERS_MAX):
        limits.start_request(f"u{number}", NOON)
        limits.finish_request(f"u{number}", 0)
    assert len(limits) <= USERS_MAX
    assert codes(limits, "runs", NOON, 1) == ["user_too_many_at_once"]
