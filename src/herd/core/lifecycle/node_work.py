"""Computes what a node still does: a node that is drained may be switched off when nothing is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from herd.core.estimates.latencies import Latencies
from herd.core.lifecycle.queue_positions import left_s
from herd.core.state.fleet import ModelName
from herd.core.state.queues import Queue


@dataclass(frozen=True, slots=True)
class NodeWork:
    """`left_s`: when the last running request will probably end; None if that cannot be estimated."""

    running: int
    waiting: int
    left_s: float | None


def work_on(queues: Mapping[ModelName, Queue], latencies: Latencies, now: float) -> NodeWork:
    """`queues`: the queues of the node."""
    ends_s = [
        left_s(work, latencies.p75_s(queue.node_id, queue.model), now)
        for queue in queues.values()
        for work in queue.in_flight.values()
    ]
    known_s = [end_s for end_s in ends_s if end_s is not None]
    return NodeWork(
        running=len(ends_s),
        waiting=sum(len(queue.pending) for queue in queues.values()),
        left_s=max(known_s, default=0.0) if len(known_s) == len(ends_s) else None,
    )
