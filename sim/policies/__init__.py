"""Contains the policies of the routing benchmark, one file each.

A file defines `POLICY = SimPolicy("name", description, make)`. Each is a policy for the real scheduler. This file has
what several of them use: properties of a candidate, and a simple ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from herd.core.state.decision import Candidate, Scored
from herd.core.state.request import Request

Key = Callable[[Request, Candidate], tuple[float, ...]]


@dataclass(slots=True)
class Ordered:
    """Ranks by the smallest key, then by the node's name."""

    name: str
    key: Key

    def rank(self, request: Request, candidates: Sequence[Candidate]) -> list[Scored]:
        ordered = sorted(candidates, key=lambda candidate: (self.key(request, candidate), candidate.node.id))
        return [unscored(candidate) for candidate in ordered]


def unscored(candidate: Candidate) -> Scored:
    return Scored(node_id=candidate.node.id, total=0.0, terms={}, depth=candidate.depth)


def connections(candidate: Candidate) -> int:
    """Requests of this coordinator that run or wait on the node, of all models."""
    return sum(len(queue.in_flight) + len(queue.pending) for queue in candidate.busy.values())


def bandwidth_gbps(candidate: Candidate) -> float:
    return candidate.node.report.memory_bandwidth_gbps or 50.0


def is_cold(candidate: Candidate) -> bool:
    return candidate.model_info.loaded is None


def has_no_slot(candidate: Candidate) -> bool:
    return candidate.in_flight + candidate.pending >= candidate.model_info.engine.slots
