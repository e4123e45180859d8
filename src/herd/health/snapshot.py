"""Everything a check may look at, frozen at one moment: nodes, their last hour, the traffic of the last hour. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from herd.core.state.fleet import Liveness, ModelInfo, ModelName, NodeId, Pressure, Report

WINDOW_S = 3600.0
"""How far back traffic and samples reach: long enough for a rate, short enough to be about now."""
SAMPLE_EVERY_S = 15.0
SAMPLES_MAX = int(WINDOW_S / SAMPLE_EVERY_S)


@dataclass(frozen=True, slots=True)
class NodeSample:
    """A node at one moment of its past hour."""

    at: float
    liveness: Liveness
    pressure: Pressure
    swap_used_bytes: int
    disk_free_bytes: int | None
    is_hot: bool
    loaded: frozenset[ModelName]


@dataclass(frozen=True, slots=True)
class NodeNow:
    """A node: its newest report, what we believe of it, and its samples, oldest first."""

    report: Report
    liveness: Liveness
    silent_s: float
    returns: int = 0
    """How often it came back within the last minutes."""
    is_reachable: bool = True
    is_authorized: bool = True
    running: int = 0
    pending: int = 0
    clock_ahead_s: float | None = None
    """Its clock minus ours, as its heartbeats say; None where they say nothing."""
    is_yielding: bool = False
    past: tuple[NodeSample, ...] = ()

    @property
    def id(self) -> NodeId:
        return self.report.node_id

    @property
    def is_here(self) -> bool:
        return self.liveness is not Liveness.OFFLINE

    @property
    def loaded(self) -> Iterator[tuple[ModelName, ModelInfo]]:
        return ((name, card) for name, card in sorted(self.report.models.items()) if card.loaded is not None)


@dataclass(frozen=True, slots=True)
class ModelTraffic:
    """What became of the requests of one model on one node within the window. Counts are rows of the traces."""

    node_id: NodeId
    model: ModelName
    requests: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    silent: int = 0
    """Attempts that were given up because no token came, at the beginning or in between."""
    refused: int = 0
    """Attempts that could not connect."""
    cold_loads: int = 0
    load_s: float = 0.0
    overlong: int = 0
    """Prompts longer than the window that the model is loaded with."""
    cut_short: int = 0
    """Answers that ended because the window was full."""
    prompt_tokens_max: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0
    """Sum over requests, of the time before any node had them."""
    link_s: float | None = None
    """Mean seconds to the first byte that neither load nor prompt explain; None where engines did not say."""
    link_count: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """`rejected` found no node within their time; `too_late` met their own deadline. `is_known` is false where the traces could
    not be read: then checks of traffic say nothing."""

    pairs: tuple[ModelTraffic, ...] = ()
    requests: int = 0
    rejected: int = 0
    too_late: int = 0
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class StoreNow:
    """How the traces are doing. `failing_since` is unix time."""

    waiting: int = 0
    dropped: int = 0
    unusable: int = 0
    failing_since: float | None = None
    problem: str = ""
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment. `pinned` is who should have which model in memory; `alarms` what the books' audit found."""

    at: float
    version: str
    nodes: tuple[NodeNow, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    store: StoreNow = field(default_factory=StoreNow)
    alarms: int = 0
    alarmed_at: float | None = None
    is_open: bool = False
    pinned: Mapping[NodeId, tuple[ModelName, ...]] = field(default_factory=dict)

    @property
    def here(self) -> tuple[NodeNow, ...]:
        """The nodes that report."""
        return tuple(node for node in self.nodes if node.is_here)

    def node(self, node_id: NodeId) -> NodeNow | None:
        return next((node for node in self.nodes if node.id == node_id), None)
