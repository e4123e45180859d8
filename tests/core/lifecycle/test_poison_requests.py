"""Tests that fingerprints are remembered for a limited time and in limited number."""

from __future__ import annotations

from herd.core.lifecycle import poison_requests
from herd.core.lifecycle.poison_requests import PoisonRequests


def test_fingerprint_is_suspected_for_a_limited_time() -> None:
    poisons = PoisonRequests()
    poisons.suspect(5, 0.0)
    assert poisons.is_suspected(5, poison_requests.BLOCKED_S - 1) and not poisons.is_suspected(6, 0.0)
    assert not poisons.is_suspected(5, poison_requests.BLOCKED_S) and len(poisons) == 0


def test_0_is_not_a_fingerprint_and_their_number_is_limited() -> None:
    poisons = PoisonRequests()
    poisons.suspect(0, 0.0)
    assert len(poisons) == 0
    for number in range(1, poison_requests.FINGERPRINTS_MAX + 10):
        poisons.suspect(number, 0.0)
    assert len(poisons) == poison_requests.FINGERPRINTS_MAX and not poisons.is_suspected(1, 1.0)
