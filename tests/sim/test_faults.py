"""Tests the dispatcher under two thousand seeded schedules of faults, and that injected bugs are found."""

from __future__ import annotations

import pytest

from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.state.commands import Command, Refuse
from herd.core.state.events import AttemptFailed, AttemptFinished, ClientLeft
from herd.core.state.fleet import Node
from herd.core.state.live_request import LiveRequest, Trigger
from herd.core.state.request import Counters, Failure
from sim.faults.__main__ import SEEDS as SIMULATION
from sim.faults.schedule import ClientRequest, schedule, shrink
from sim.faults.world import first_violation

SEEDS = 2000
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_all_invariants_hold_under_every_schedule(part: int) -> None:
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        wrong = first_violation(schedule(seed), seed=seed)
        if wrong:
            pytest.fail(SIMULATION.failure(seed, wrong))


FOUND = (500005, 500104, 500166, 501984, 502885, 503646, 504853, 509664)
"""Schedules in which something was wrong once, in the core or in a check. In 503646 a request was sent to a node in the
tick in which its deadline had passed."""


@pytest.mark.parametrize("seed", FOUND)
def test_a_schedule_that_found_a_fault_passes(seed: int) -> None:
    assert not first_violation(schedule(seed), seed=seed)


def test_equal_seeds_are_equal_schedules() -> None:
    assert schedule(5) == schedule(5) != schedule(6)


# --- dispatchers with one bug each, of the kinds that such programs have ---


class ForgetsASlot(Dispatcher):
    def _handle_client_left(self, event: ClientLeft, out: list[Command]) -> None:
        live_request = self.live_requests.get(event.request_id)
        queue = live_request.queue if live_request is not None else None
        super()._handle_client_left(event, out)
        if queue is not None and live_request is not None:
            self.waiting.queues.queue(queue.node_id, queue.model).in_flight[event.request_id] = None  # type: ignore[assignment]


class ForgetsTheHeld(Dispatcher):
    def _retry_held(self, at: float, out: list[Command], changed: Node | None = None) -> None:
        pass


class GivesUpAtOnce(Dispatcher):
    def _end_failed_attempt(self, live_request: LiveRequest, failure: Failure, at: float, out: list[Command]) -> None:
        assert live_request.attempt is not None
        live_request.attempt.failure = failure
        from herd.core.state import refusals  # noqa: PLC0415

        self.placement.refuse(live_request, Trigger.FAILED_FINAL, at, refusals.after_failure(failure), out)


class CountsTheBrokenAsWhole(Dispatcher):
    def _handle_failure(self, event: AttemptFailed, out: list[Command]) -> None:
        if event.failure.bytes_forwarded:
            self._handle_finished(AttemptFinished(event.at, event.request_id, event.attempt, Counters()), out)
        else:
            super()._handle_failure(event, out)


class EndsTwice(Dispatcher):
    def _handle_finished(self, event: AttemptFinished, out: list[Command]) -> None:
        super()._handle_finished(event, out)
        out += [command for command in out if not isinstance(command, Refuse)]


class TriesForEver(Dispatcher):
    def _retry(
        self, live_request: LiveRequest, attempt: object, failure: Failure, at: float, out: list[Command]
    ) -> None:
        super()._retry(live_request, attempt, failure, at, out)  # type: ignore[arg-type]
        live_request.tried = ()

    def _is_poisonous(self, live_request: LiveRequest, attempt: object, failure: Failure, at: float) -> bool:
        return False


@pytest.mark.parametrize(
    "make", [ForgetsASlot, ForgetsTheHeld, GivesUpAtOnce, CountsTheBrokenAsWhole, EndsTwice, TriesForEver]
)
def test_injected_bug_is_found_and_its_schedule_is_shrunk(make: type[Dispatcher]) -> None:
    seed = next(seed for seed in range(SEEDS) if first_violation(schedule(seed), make, seed))
    small = shrink(schedule(seed), lambda actions: bool(first_violation(actions, make, seed)))
    assert first_violation(small, make, seed) and len(small) <= 6, small
    assert any(isinstance(action, ClientRequest) for action in small)
