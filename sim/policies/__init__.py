"""One way to choose a file: `BASELINE = Baseline("name", what, make)`. Each is a policy of the real scheduler.

The parts that several share stand here: what they read of a candidate, and how a ranking is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request

Key = Callable[[Request, Candidate], tuple[float, ...]]


@dataclass(slots=True)
class Ordered:
    """Smallest key first, then the node's name."""

    name: str
    key: Key

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ordered = sorted(candidates, key=lambda one: (self.key(request, one), one.node.id))
        return [told(candidate) for candidate in ordered]


def told(candidate: Candidate) -> Scored:
    return Scored(candidate.node.id, 0.0, {}, candidate.depth)


def connections(candidate: Candidate) -> int:
    """Everything of ours that runs or waits on the node, whatever its model."""
    return sum(len(queue.in_flight) + len(queue.pending) for queue in candidate.busy.values())


def bandwidth(candidate: Candidate) -> float:
    return candidate.node.report.memory_bandwidth_gbps or 50.0


def is_cold(candidate: Candidate) -> bool:
    return candidate.card.loaded is None


def has_no_slot(candidate: Candidate) -> bool:
    return candidate.in_flight + candidate.pending >= candidate.card.engine.slots
