"""Defines the snapshot that checks examine: nodes with samples of the last hour, traffic, and the trace store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from herd.core.state.fleet import Liveness, ModelInfo, ModelName, NodeId, Pressure, Report

WINDOW_S = 3600.0
"""How far back traffic and samples reach: long enough for a rate, short enough to describe the present."""
SAMPLE_EVERY_S = 15.0
SAMPLES_MAX = int(WINDOW_S / SAMPLE_EVERY_S)


@dataclass(frozen=True, slots=True)
class NodeSample:
    """The state of a node at one time within the last hour."""

    at: float
    liveness: Liveness
    pressure: Pressure
    swap_used_bytes: int
    disk_free_bytes: int | None
    is_hot: bool
    loaded: frozenset[ModelName]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNow:
    """A node: its newest report, its state, and its samples, oldest first."""

    report: Report
    liveness: Liveness
    silent_s: float
    returns: int = 0
    """How often the node came back online within the last minutes."""
    is_reachable: bool = True
    is_authorized: bool = True
    running: int = 0
    pending: int = 0
    clock_ahead_s: float | None = None
    """The node's clock minus the coordinator's clock; None if heartbeats do not contain the time."""
    samples: tuple[NodeSample, ...] = ()

    @property
    def id(self) -> NodeId:
        return self.report.node_id

    @property
    def is_online(self) -> bool:
        """True in every state except offline."""
        return self.liveness is not Liveness.OFFLINE

    @property
    def loaded(self) -> Iterator[tuple[ModelName, ModelInfo]]:
        return (
            (name, model_info)
            for name, model_info in sorted(self.report.models.items())
            if model_info.loaded is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraffic:
    """The outcomes of requests for one model on one node within `WINDOW_S`. Counts are trace rows."""

    node_id: NodeId
    model: ModelName
    requests: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    silent: int = 0
    """Attempts that timed out because no token arrived, before the first token or between two tokens."""
    refused: int = 0
    """Attempts whose connection was refused."""
    cold_loads: int = 0
    load_s: float = 0.0
    overlong: int = 0
    """Prompts longer than the loaded context window."""
    cut_short: int = 0
    """Answers that ended because the context window was full."""
    prompt_tokens_max: int = 0
    newest_failed_id: str = ""
    """Id of the newest failed request; empty if none failed."""
    busy_s: float = 0.0
    waited_s: float = 0.0
    """Total time of all requests before a node received them."""
    link_s: float | None = None
    """Mean seconds to the first byte beyond load and prefill; None if the engine does not report them."""
    link_count: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """`rejected` requests found no node in time; `too_late` ones reached their deadline.

    `is_known` is false if the traces could not be read: then checks of traffic find nothing.
    """

    pairs: tuple[ModelTraffic, ...] = ()
    requests: int = 0
    rejected: int = 0
    too_late: int = 0
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class StoreNow:
    """The state of the trace store. `failing_since` is unix time; `oldest_s` is how long a trace has waited."""

    waiting: int = 0
    dropped: int = 0
    unusable: int = 0
    failing_since: float | None = None
    problem: str = ""
    free_bytes: int | None = None
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The fleet at one time. `pinned` has the models that should be in memory by node id, `alarms` the internal
    inconsistencies."""

    at: float
    version: str
    nodes: tuple[NodeNow, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    store: StoreNow = field(default_factory=StoreNow)
    alarms: int = 0
    alarmed_at: float | None = None
    is_open: bool = False
    pinned: Mapping[NodeId, tuple[ModelName, ...]] = field(default_factory=dict)
    dead_aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Aliases of which no model is in the fleet, with the models that the owner named."""

    @property
    def online(self) -> tuple[NodeNow, ...]:
        """The nodes that are not offline."""
        return tuple(node for node in self.nodes if node.is_online)

    def node(self, node_id: NodeId) -> NodeNow | None:
        return next((node for node in self.nodes if node.id == node_id), None)
