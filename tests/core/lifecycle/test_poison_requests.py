"""Tests that fingerprints are remembered for a limited time and in limited number."""

from __future__ import annotations

from herd.core.lifecycle.poison_requests import (
    ALONE_WEIGHT,
    BLOCKED_S,
    COMPANY_WEIGHT,
    FINGERPRINTS_MAX,
    PoisonRequests,
)


def test_fingerprint_is_suspected_for_a_limited_time() -> None:
    poisons = PoisonRequests()
    assert [poisons.record_crash(5, 0, ALONE_WEIGHT, 0.0) for _ in range(3)] == [False, False, True]
    assert poisons.blocked_s(5, 100.0) == BLOCKED_S - 100.0 and not poisons.blocked_s(6, 0.0)
    assert not poisons.blocked_s(5, BLOCKED_S) and len(poisons) == 0


def test_crashes_at_different_places_and_in_company_are_weaker_evidence() -> None:
    poisons = PoisonRequests()
    places = [0, 0, 70, 70, 90]
    assert not any(poisons.record_crash(5, place, ALONE_WEIGHT, 0.0) for place in places)
    assert [poisons.record_crash(6, 0, COMPANY_WEIGHT, 0.0) for _ in range(6)] == [False] * 5 + [True]


def test_an_answer_acquits_the_request_and_old_evidence_does_not_count() -> None:
    poisons = PoisonRequests()
    for _ in range(2):
        poisons.record_crash(5, 0, ALONE_WEIGHT, 0.0)
    poisons.acquit(5)
    assert not poisons.record_crash(5, 0, ALONE_WEIGHT, 1.0) and not poisons.record_crash(5, 0, ALONE_WEIGHT, 2.0)
    assert not poisons.record_crash(5, 0, ALONE_WEIGHT, 2.0 + BLOCKED_S)


def test_0_is_not_a_fingerprint_and_their_number_is_limited() -> None:
    poisons = PoisonRequests()
    assert not any(poisons.record_crash(0, 0, ALONE_WEIGHT, 0.0) for _ in range(9)) and len(poisons) == 0
    for number in range(1, FINGERPRINTS_MAX + 10):
        poisons.record_crash(number, 0, 2 * 3, 0.0)
    assert (
        len(poisons) == FINGERPRINTS_MAX and not poisons.blocked_s(1, 1.0) and poisons.blocked_s(FINGERPRINTS_MAX, 1.0)
    )
