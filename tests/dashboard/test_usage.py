"""Lines of usage are added, ordered and shared out, whatever they are summed by."""

from __future__ import annotations

from herd.dashboard import usage
from herd.dashboard.usage import By, Used


def used(name: str, requests: int, busy_ms: float, last_at: float = 1.0, kind: str = "model") -> Used:
    sums = {"requests": requests, "failed": 1, "prompt_tokens": 10, "completion_tokens": 5}
    return Used(kind, name, {**sums, "busy_ms": busy_ms, "last_at": last_at})


def test_a_model_on_two_nodes_is_one_line_and_the_most_seconds_come_first() -> None:
    found = usage.added([used("m", 2, 1000.0, 7.0), used("n", 9, 1000.0), used("m", 1, 2000.0, 3.0)])
    first, second = usage.lines(found, By.MODEL)
    assert (first.name, first.requests, first.failed, first.busy_s, first.share) == ("m", 3, 2, 3.0, 0.75)
    assert (first.prompt_tokens, first.completion_tokens, first.last_seen_at) == (20, 10, 7.0)
    assert (second.name, second.share) == ("n", 0.25)


def test_an_address_and_a_user_of_one_name_are_two_lines() -> None:
    found = usage.added([used("a", 1, 1.0, kind="user"), used("a", 1, 1.0, kind="address")])
    assert len(usage.lines(found, By.USER)) == 2


def test_days_are_the_newest_first_and_subjects_without_a_request_are_left_out() -> None:
    found = [used("2026-11-01", 1, 9.0), used("2026-11-03", 1, 1.0), used("2026-11-02", 0, 1.0)]
    assert [line.name for line in usage.lines(found, By.DAY)] == ["2026-11-03", "2026-11-01"]


def test_a_range_without_requests_has_a_sentence() -> None:
    assert usage.summary(usage.lines([], By.USER), By.USER) == "No requests in this time range."
