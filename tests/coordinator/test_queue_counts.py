"""The counts of each queue are those of its ended requests."""

from __future__ import annotations

import pytest

from builders import a_request
from herd.coordinator.queue_counts import QueueCounts
from herd.core.state.commands import Record
from herd.core.state.fleet import NodeId, canonical
from herd.core.state.request import Attempt, Counters, Outcome


def a_row(outcome: Outcome, took_s: float = 2.0, node_id: str = "alpha", **more: int) -> Record:
    attempt = Attempt(number=1, node_id=NodeId(node_id), model=canonical("m"), started_at=0.0)
    return Record(
        at=10.0 + took_s,
        request=a_request(),
        outcome=outcome,
        arrived_at=10.0,
        model=canonical("m"),
        attempt=attempt,
        counters=Counters(**more),
    )


def test_completed_requests_count_with_their_means() -> None:
    counts = QueueCounts()
    counts.add(a_row(Outcome.COMPLETED, 1.0, prompt_tokens=10, completion_tokens=4))
    counts.add(a_row(Outcome.COMPLETED, 3.0, prompt_tokens=30, completion_tokens=8))
    count = counts.of_queue[NodeId("alpha"), canonical("m")]
    assert (count.completed, count.failed) == (2, 0)
    assert count.mean(1000.0 * count.latency_s) == 2000.0
    assert (count.mean(count.prompt_tokens), count.mean(count.completion_tokens)) == (20.0, 6.0)


def test_failures_count_without_changing_the_means() -> None:
    counts = QueueCounts()
    counts.add(a_row(Outcome.FAILED))
    counts.add(a_row(Outcome.FAILED_MIDSTREAM))
    count = counts.of_queue[NodeId("alpha"), canonical("m")]
    assert (count.completed, count.failed, count.mean(count.latency_s)) == (0, 2, 0.0)


@pytest.mark.parametrize("outcome", [Outcome.RETRIED, Outcome.CLIENT_CANCELLED, Outcome.REJECTED])
def test_other_rows_are_not_counted(outcome: Outcome) -> None:
    counts = QueueCounts()
    counts.add(a_row(outcome))
    assert not counts.of_queue
