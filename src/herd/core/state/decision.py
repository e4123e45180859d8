"""What a choice was made of: candidates, points, reasons, the node. Decides nothing; remembers everything.

A decision keeps every candidate, chosen or not, so that explaining and replaying it need no second code path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId, Report
from herd.core.state.queues import Queue


@dataclass(slots=True, eq=False)
class Candidate:
    """One node for one request at one instant. Built per decision: slots, not frozen (3 to 4 times cheaper).

    `in_flight` and `pending` count this model's requests on this node, from the coordinator's own books;
    `latency_p75_s` is None until enough requests were seen.
    """

    node: Node
    report: Report
    """The report that the decision is made by; the node may send another before anybody looks at its points."""
    card: ModelInfo
    model: ModelName
    at: float
    in_flight: int = 0
    pending: int = 0
    latency_p75_s: float | None = None
    quarantined_until: float = 0.0
    busy: Mapping[ModelName, Queue] = field(default_factory=dict)
    """The node's queues: its models that are answering now, and so cannot be evicted."""
    queue: Queue | None = None
    """This model's queue on this node, if anybody is in it."""
    is_warm: bool = False
    """Unloaded lately: its file is probably still in the page cache."""
    _free_bytes: int | None = None

    @property
    def depth(self) -> int:
        return self.in_flight + self.pending

    @property
    def free_bytes(self) -> int:
        """What this model may count on: memory that is free, that idle models hold, or that it holds already."""
        if self._free_bytes is None:
            free = self.node.room_bytes
            for name, loaded in self.node.loaded.items():
                if name == self.model or name not in self.busy:
                    free += loaded.size_bytes
            self._free_bytes = free
        return self._free_bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A node that was out before points were given, and why, with the numbers."""

    node_id: NodeId
    filter: str
    reason: str


@dataclass(slots=True, eq=False)
class Scored:
    """A node that could serve: its total and the part of every signal, in points."""

    node_id: NodeId
    total: float
    terms: dict[str, float]
    depth: int = 0
    expected_s: dict[str, float] = field(default_factory=dict)
    """Terms of the expected completion time in seconds, where they were estimated."""
    others_s: float = 0.0
    """What those who are being answered would lose, before any weight: with `evicted` all that `harm` is made of."""
    evicted: Sequence[tuple[float, float]] = ()
    """The models that would have to go, each with the seconds until it is probably wanted again (0 while it is answering) and
    the seconds of loading it anew."""
    candidate: Candidate | None = None
    """What was seen of the node. Of its belongings only the report, the card and the plain values are still as they were."""


@dataclass(slots=True, eq=False)
class Decision:
    """The outcome of filter, score, pick for one model: `chosen` is None when every node was rejected.

    `scored` is ordered best first, so `scored[0].node_id == chosen`.
    """

    model: ModelName
    policy: str
    chosen: NodeId | None
    scored: list[Scored]
    rejected: list[Rejected]
    is_panic: bool = False
    """Every node that could was under suspicion, and the best of them was tried all the same."""

    @property
    def best(self) -> Scored | None:
        return self.scored[0] if self.scored else None
