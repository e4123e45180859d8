"""Defines a routing decision: candidates with points and times, rejected nodes with reasons, and the chosen node.

A decision keeps every candidate, chosen or not, so that explaining it and replaying it need no second code path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId, Report
from herd.core.state.queues import Queue


@dataclass(slots=True, eq=False)
class Candidate:
    """One node for one request at one time. Created for each decision: with slots and not frozen, which is 3 to 4 times
    cheaper, and positional, because keywords make a decision 8 % slower (measured).

    `in_flight` and `pending` count this model's requests on this node, as the coordinator knows them; `latency_p75_s`
    is None until enough requests were seen.
    """

    node: Node
    report: Report
    """The report on which the decision is based; the node may send a newer one before the points are computed."""
    model_info: ModelInfo
    model: ModelName
    at: float
    in_flight: int = 0
    pending: int = 0
    latency_p75_s: float | None = None
    quarantined_until: float = 0.0
    busy: Mapping[ModelName, Queue] = field(default_factory=dict)
    """The node's queues: their models are answering now and cannot be evicted."""
    queue: Queue | None = None
    """This model's queue on this node, unless it is empty."""
    is_warm: bool = False
    """The model was unloaded recently: its file is probably still in the page cache."""
    _free_bytes: int | None = None

    @property
    def depth(self) -> int:
        return self.in_flight + self.pending

    @property
    def free_bytes(self) -> int:
        """Memory available to this model: what is free, what idle models occupy, and what the model occupies itself."""
        if self._free_bytes is None:
            free = self.node.free_model_memory_bytes
            for name, loaded in self.node.loaded.items():
                if name == self.model or name not in self.busy:
                    free += loaded.size_bytes
            self._free_bytes = free
        return self._free_bytes


CopyKind: TypeAlias = "tuple[str, str, str, frozenset[str], frozenset[str]]"
"""What filters read of a node's copy of a model and do not read of the node."""


def copy_kind(model_info: ModelInfo) -> CopyKind:
    """Equal for copies of which a filter with `is_by_copy` rejects all or none."""
    engine = model_info.engine
    return engine.kind, engine.version, model_info.digest, model_info.lacks, model_info.capabilities


@dataclass(frozen=True, slots=True)
class Rejected:
    """A node that cannot serve the request: the filter that rejected it, and the reason with its numbers."""

    node_id: NodeId
    filter: str
    reason: str
    is_temporary: bool = True
    """Whether waiting can help."""


class Scored:
    """A node that can serve the request: its points in total and by signal, which a subclass may compute later."""

    __slots__ = ("_terms", "_total", "candidate", "depth", "evicted", "expected_s", "node_id", "others_s")

    def __init__(
        self,
        *,
        node_id: NodeId,
        total: float = 0.0,
        terms: dict[str, float] | None = None,
        depth: int = 0,
        expected_s: dict[str, float] | None = None,
        others_s: float = 0.0,
        evicted: Sequence[tuple[float, float]] = (),
        candidate: Candidate | None = None,
    ) -> None:
        self.node_id = node_id
        self._total = total
        self._terms = {} if terms is None else terms
        self.depth = depth
        self.expected_s: dict[str, float] = {} if expected_s is None else expected_s
        """Terms of the expected completion time in seconds; empty where they were not estimated."""
        self.others_s = others_s
        """The delay of other requests in seconds, before weighting. The term `harm` is computed from it and from
        `evicted`."""
        self.evicted = evicted
        """The models that would be evicted: seconds until each is probably requested again (0 while it is answering),
        and seconds to load it again."""
        self.candidate = candidate
        """The node at the decision. Only the report, the model info and the plain values stay unchanged afterwards."""

    @property
    def total(self) -> float:
        return self._total

    @property
    def terms(self) -> dict[str, float]:
        return self._terms


@dataclass(slots=True, eq=False, kw_only=True)
class Decision:
    """The result of filtering and ranking for one model: `chosen` is None if every node was rejected.

    `scored` is ordered best first, so `scored[0].node_id == chosen`.
    """

    model: ModelName
    policy: str
    chosen: NodeId | None
    scored: list[Scored]
    rejected: list[Rejected]
    pruned: int = 0
    """Nodes whose times were not estimated, because not even their least time is below the time of the best node."""
    unlisted: int = 0
    """Nodes that cannot serve and are not listed in `rejected`: of very many nodes only some are."""
    is_panic: bool = False
    """Only nodes with recent failures were left, and the best of them is tried."""

    @property
    def best(self) -> Scored | None:
        return self.scored[0] if self.scored else None
