"""Counts what the queue of each node and model has done since the start, for clients that poll `GET /fleet/queue`."""

from __future__ import annotations

from dataclasses import dataclass

from herd.bounded import BoundedDict
from herd.core.state.commands import Record
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.request import Outcome

QUEUES_MAX = 4096
"""Queues that are counted; the oldest one is dropped first."""


@dataclass(slots=True)
class QueueCount:
    """Requests that have ended, and the sums over the completed ones."""

    completed: int = 0
    failed: int = 0
    latency_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def mean(self, total: float) -> float:
        return round(total / self.completed, 1) if self.completed else 0.0


class QueueCounts:
    """The counts by node and model."""

    def __init__(self) -> None:
        self.of_queue = BoundedDict[tuple[NodeId, ModelName], QueueCount](QUEUES_MAX)

    def add(self, row: Record) -> None:
        """Counts the final row of a request that a node has answered or failed; others are no result of the node."""
        if row.attempt is None or row.outcome not in (Outcome.COMPLETED, Outcome.FAILED, Outcome.FAILED_MIDSTREAM):
            return
        key = (row.attempt.node_id, row.model)
        count = self.of_queue.get(key)
        if count is None:
            count = self.of_queue[key] = QueueCount()
        if row.outcome is not Outcome.COMPLETED:
            count.failed += 1
            return
        count.completed += 1
        count.latency_s += row.at - row.arrived_at
        count.prompt_tokens += row.counters.prompt_tokens or 0
        count.completion_tokens += row.counters.completion_tokens or 0
