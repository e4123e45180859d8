"""Tests the I/O boundary under two thousand seeded schedules of faults, and that faults of the past would be found."""

from __future__ import annotations

from typing import Any

import pytest

from herd.coordinator.proxy.continuation import Continuation
from herd.coordinator.proxy.pass_through import PassThrough
from herd.dialects.openai import OpenAI
from herd.protocols.openai.sent_chat import SentChat
from sim.boundary.__main__ import SEEDS as SIMULATION
from sim.boundary.__main__ import actions_of
from sim.boundary.world import first_violation

SEEDS = 2000
PARTS = 8
SEEDS_WITH_A_BUG = 400


@pytest.mark.parametrize("part", range(PARTS))
def test_all_invariants_hold_under_every_schedule(part: int) -> None:
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        wrong = first_violation(actions_of(seed), seed)
        if wrong:
            pytest.fail(SIMULATION.failure(seed, wrong))


def test_a_client_that_leaves_between_two_attempts_ends_its_request() -> None:
    """Its last attempt had failed, so that nothing of it may count as the end of the answer."""
    assert not first_violation(actions_of(1833), 1833)


def test_equal_seeds_are_equal_schedules() -> None:
    assert actions_of(5) == actions_of(5) != actions_of(6)


def no_continuation_of_responses(patch: pytest.MonkeyPatch) -> None:
    real = OpenAI.sent_stream
    patch.setattr(
        OpenAI, "sent_stream", lambda self, request: kept if isinstance(kept := real(self, request), SentChat) else None
    )


def failures_pass_as_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PassThrough, "_before_error", lambda self, lines: lines)


def every_token_again(patch: pytest.MonkeyPatch) -> None:
    real = Continuation.record
    patch.setattr(Continuation, "record", lambda self, data: real(self, data) if b"7" not in data else None)


def exceptions_escape(patch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any) -> None:
        raise ValueError("this body cannot be read")

    patch.setattr(Continuation, "kinds", raises)


@pytest.mark.parametrize(
    "bug", [no_continuation_of_responses, failures_pass_as_ends, every_token_again, exceptions_escape]
)
def test_injected_bug_is_found_with_a_schedule_that_shows_it(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    seed = next(seed for seed in range(SEEDS_WITH_A_BUG) if first_violation(actions_of(seed), seed))
    assert "reduced to" in SIMULATION.failure(seed, first_violation(actions_of(seed), seed))
