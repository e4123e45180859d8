"""Defines the state of the fleet: every node with its newest report, and the models it has on disk and in memory.

Read this file first. A `Report` is the content of one heartbeat. It never changes. A `Node` has the newest report and
what the coordinator has observed since. Sizes are bytes, times are seconds on the caller's monotonic clock, context
windows are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NewType

from herd.core.state.changed_nodes import ChangedNodes
from herd.core.state.conformance import Certified
from herd.core.state.loads import remember_unloaded
from herd.core.state.model_index import ModelIndex
from herd.core.state.model_names import ModelName as ModelName
from herd.core.state.model_names import canonical as canonical
from herd.core.state.nodes import administration
from herd.core.state.nodes.administration import Administration
from herd.core.state.nodes.budget import NO_BUDGET, Budget
from herd.core.state.nodes.engine_hosts import EngineHosts
from herd.core.state.nodes.machine import Capacity as Capacity
from herd.core.state.nodes.machine import Disk as Disk
from herd.core.state.nodes.machine import Gpu as Gpu
from herd.core.state.nodes.machine import Memory as Memory
from herd.core.state.nodes.machine import Pressure as Pressure
from herd.core.state.other_names import with_other_names
from herd.core.state.served_paths import PathsByName

NodeId = NewType("NodeId", str)

GB = 1_000_000_000
"""Gigabytes in texts are decimal, as in `ollama list`."""


class Liveness(Enum):
    """Whether a node sends heartbeats. Only ONLINE and DEGRADED nodes get requests."""

    ONLINE = "online"
    DEGRADED = "degraded"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAbilities:
    """What a kind of engine can do. The engine's plug-in defines it; heartbeats do not carry it."""

    takes_window: bool = False
    """Each request may set the context window and the token limit, and a larger window reloads the model."""
    can_pull: bool = False
    """It downloads, copies and removes models on command."""
    counts_tokens: bool = False
    """It answers a request for the number of tokens itself."""
    serves_ollama_api: bool = False
    """It is an Ollama: it describes its models itself, and its version is the one that Ollama's clients are given."""
    model_format: str = ""
    """The format of its model files, where there is one only."""
    default_namespace: str = ""
    """The namespace of a model whose name has none; empty where names have no namespaces."""
    paths: PathsByName = field(default_factory=dict)
    """The paths of client APIs that it serves itself."""
    leaves_out: frozenset[str] = frozenset()
    """Capabilities without which it answers nevertheless, as if the request had no such part."""


NO_ABILITIES = EngineAbilities()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """How an engine is now, by its agent."""

    silent_s: float = field(default=0.0, compare=False)
    """Seconds since which it accepts connections but answers nothing, by its agent; 0 if it answers or is unknown."""
    problem: str = field(default="", compare=False)
    """Why the coordinator cannot use it; empty if it can."""
    remedy: str = field(default="", compare=False)
    """What to do about `problem`, if its agent knows."""
    instance: str = ""
    """Distinguishes further engines of one kind on a machine: the port. Each of them is a node of its own."""
    gpus: tuple[int, ...] | None = field(default=None, compare=False)
    """The graphics cards that it may use, as positions in the report; None: all, or unknown."""


@dataclass(frozen=True, slots=True)
class EngineEndpoint(EngineState):
    """One inference server of a node, as the coordinator reaches it.

    `kind` is the name of a file in `engines/`; `url` is "http://host:port" without a path; `slots` is the number of
    requests that the engine runs at the same time for each model (Ollama: OLLAMA_NUM_PARALLEL, default 1).
    """

    kind: str
    url: str
    version: str = ""
    slots: int = 1
    models_max: int | None = None
    library_url: str = ""
    """URL at which the agent shares the models with the fleet; empty if it does not."""
    abilities: EngineAbilities = field(default=NO_ABILITIES, compare=False)
    """Follows from `kind`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: its size there, and the context window of one request."""

    size_bytes: int
    window_tokens: int | None = None
    vram_bytes: int | None = None
    context_explicit: bool | None = None
    """Whether the window was set explicitly and not chosen by the engine; None if unknown."""
    expires_at: str = ""
    """When the engine will unload the model, in the engine's notation (RFC 3339); empty if unknown."""
    is_other_name: bool = False
    """The model is loaded under another name of the same file; its memory is counted there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One model on one node: the file on disk, and `loaded` if it is in memory too.

    `name` is spelled as the node's engine spells it; the key in `Report.models` is canonical.
    """

    name: str
    engine: EngineEndpoint
    size_bytes: int = 0
    digest: str = ""
    family: str = ""
    parameters: str = ""
    quantization: str = ""
    context_max_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()
    """What the model can do, in Ollama's words: completion, embedding, insert, thinking, tools, vision."""
    lacks: frozenset[str] = frozenset()
    """What the engine reports that the model cannot do. A capability in neither set is unknown: it is tried."""
    modified_at: str = ""
    loaded: Loaded | None = None
    kv_bytes_per_token: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The content of one heartbeat of a node. It is replaced and never changed."""

    node_id: NodeId
    boot_id: str
    memory: Memory
    machine: NodeId = NodeId("")
    """The node of the same machine that this further engine belongs to; empty for that node itself."""
    models: Mapping[ModelName, ModelInfo] = field(default_factory=dict)
    engines: tuple[EngineEndpoint, ...] = ()
    arch: str = ""
    agent_version: str = ""
    os: str = ""
    chip: str = ""
    lan_ip: str = ""
    cores: int = 0
    cpu_utilization: float = 0.0
    memory_bandwidth_gbps: float | None = None
    disk: Disk | None = None
    gpus: tuple[Gpu, ...] = ()
    thermal_state: str = "unknown"
    temperature_c: float | None = None
    draining: bool = False
    paused: bool = False
    capacity: Capacity | None = None
    connection_failures: int = 0
    clock_s: float | None = field(default=None, compare=False)
    """The node's clock when the heartbeat was sent, in Unix seconds."""
    labels: frozenset[str] = frozenset()
    """Its labels by its agent's settings."""
    own_budget: Budget = NO_BUDGET
    """What its agent's settings allow for models."""
    administration: Administration = administration.DEFAULT
    """What the coordinator adds to every report of the node."""

    @property
    def is_paused(self) -> bool:
        """Whether it gets no new requests: by its agent, its owner's habits, or an administrator."""
        by_agent = self.draining or self.paused or (self.capacity is not None and self.capacity.paused)
        return by_agent or not self.administration.is_active

    @property
    def all_labels(self) -> frozenset[str]:
        return self.labels | self.administration.labels

    @property
    def is_leaving(self) -> bool:
        """Whether it will be away soon, so that nothing new may depend on it."""
        return self.draining or self.administration.duty is administration.Duty.DRAINING

    @property
    def is_ready(self) -> bool:
        """Whether the machine itself accepts requests now."""
        return not self.is_paused and self.memory.pressure is not Pressure.CRITICAL

    @property
    def memory_ceiling_bytes(self) -> int:
        """Memory for models: graphics memory if there is any, else main memory; at most the owner's ceiling, and the
        budget."""
        limit = self.budget.memory_bytes
        return self._owners_ceiling_bytes if limit is None else min(limit, self._owners_ceiling_bytes)

    @property
    def _owners_ceiling_bytes(self) -> int:
        physical = self.gpu_memory_bytes or self.memory.total_bytes
        return min(physical, self.capacity.ceiling_bytes) if self.capacity else physical

    @property
    def budget(self) -> Budget:
        """What models may use: the smaller of the agent's and the administrator's limits."""
        return self.own_budget.within(self.administration.budget)

    @property
    def model_memory_free_bytes(self) -> int:
        """Memory for further models. Only models count against a budget; below zero if they exceed it."""
        free = max(0, self._owners_ceiling_bytes - self.memory_used_bytes)
        limit = self.budget.memory_bytes
        if limit is None:
            return free
        loaded = (info.loaded for info in self.models.values() if info.loaded is not None)
        return min(free, limit - sum(one.size_bytes for one in loaded if not one.is_other_name))

    @property
    def model_disk_bytes(self) -> int:
        """The size of all model files; two names of one file count once."""
        return sum({info.digest or name: info.size_bytes for name, info in self.models.items()}.values())

    @property
    def gpu_memory_bytes(self) -> int:
        return sum(gpu.memory_total_bytes for gpu in self.gpus)

    @property
    def memory_used_bytes(self) -> int:
        """Used memory, of the kind that `memory_ceiling_bytes` counts."""
        if self.gpus:
            return sum(gpu.memory_used_bytes for gpu in self.gpus)
        return self.memory.used_bytes


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """The state of one node. Every decision uses it: it has `__slots__`, is not frozen, and is compared by identity."""

    id: NodeId
    report: Report
    last_heartbeat_at: float
    first_heartbeat_at: float
    liveness: Liveness = Liveness.ONLINE
    unreachable_until: float = 0.0
    connect_failures: int = 0
    refused_at: float = -math.inf
    """When the node last refused a connection."""
    unauthorized_until: dict[str, float] = field(default_factory=dict)
    """Engines, by URL, that answered 401 or 403: no request is sent to them until then."""
    returned_at: float = -math.inf
    """When its heartbeats last returned after it had counted as offline."""
    returns: int = 0
    """How often it has returned within a few minutes; more than once is flapping."""
    heartbeats_since_return: int = 0
    untrusted_until: float = 0.0
    """A flapping node gets no requests before this time, nor before three heartbeats in a row."""
    free_model_memory_bytes: int = 0
    """Free memory for models, by the newest report; below zero if they exceed a budget."""
    sent_models: Mapping[ModelName, ModelInfo] = field(default_factory=dict)
    """The models as the newest heartbeat listed them. While this is the same object, none of them has changed."""
    loaded: dict[ModelName, Loaded] = field(default_factory=dict)
    """Loaded models by the newest report; stored separately because every decision reads them."""
    unloaded_at: dict[ModelName, float] = field(default_factory=dict)
    """When a heartbeat first reported that the model is no longer in memory; kept for half an hour."""
    loading_until: dict[ModelName, float] = field(default_factory=dict)
    """Models that this coordinator lets the node load, with the expected end; not confirmed by a heartbeat yet."""
    learned_at: float = -1.0
    """When something was last learned from an answer of this node."""
    starts: int = 0
    """Number of attempts started here: shows whether others started while one ran."""

    def model_info(self, model: ModelName) -> ModelInfo | None:
        return self.report.models.get(model)

    def answers_to(self, name: str) -> bool:
        """Whether a client that asks for this node or machine means it; the empty name means every node."""
        return name in ("", self.id, self.report.machine)

    def is_loaded(self, model: ModelName) -> bool:
        return model in self.loaded


class Fleet:
    """All nodes, with an index by model, so that the cost of a decision depends on the number of its candidates."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.version = 0
        """Increases with every change; cached answers depend on it."""
        self.changes = ChangedNodes()
        self.hosts = EngineHosts()
        self.models = ModelIndex()
        self.aliases: Mapping[ModelName, tuple[ModelName, ...]] = {}
        """Other names of models that lists show, with the models that answer for them."""
        self.listed_tiers: Mapping[str, Sequence[str]] = {}
        """The names of cloud models that the list of each API shows."""
        self.models_for: Callable[[str], tuple[ModelName, ...]] = lambda _: ()
        """The models that answer for a name of a cloud model."""
        self.certified: Mapping[ModelName, tuple[Certified, ...]] = {}
        """What `herd certify` found; only lists of models show it."""
        self.administrations: dict[NodeId, Administration] = {}
        """Of each node for which an administrator has set something, also of a node that is away."""

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def node(self, node_id: NodeId) -> Node | None:
        return self.nodes.get(node_id)

    def with_model(self, model: ModelName) -> Collection[Node]:
        """All nodes that report the model, in the order in which they first reported it."""
        return self.models.nodes(model)

    def knows(self, model: ModelName) -> bool:
        return bool(self.models.nodes(model))

    @property
    def model_names(self) -> list[ModelName]:
        return self.models.names

    def apply_heartbeat(self, report: Report, now: float) -> Node:
        """Replaces the node's report, and updates the index and the unloaded models."""
        node = self.nodes.get(report.node_id)
        self.version += 1
        if node is not None and node.sent_models is report.models and node.report.boot_id == report.boot_id:
            self._apply_same_models(node, report, now)
            return node
        self.changes.note(report.node_id)
        sent_models, report = report.models, with_other_names(report)
        if node is None:
            node = Node(id=report.node_id, report=report, last_heartbeat_at=now, first_heartbeat_at=now)
            self.nodes[node.id] = node
        else:
            remember_unloaded(node, report, now)
            self.models.remove(node, keep=report.models)
        node.report, node.last_heartbeat_at, node.sent_models = report, now, sent_models
        node.free_model_memory_bytes = report.model_memory_free_bytes
        node.loaded = {
            name: model_info.loaded for name, model_info in report.models.items() if model_info.loaded is not None
        }
        self.models.add(node)
        self.hosts.replace(node.id, tuple(endpoint.url for endpoint in report.engines))
        return node

    def _apply_same_models(self, node: Node, report: Report, now: float) -> None:
        """The models and engines are those of the node's last heartbeat: only the readings of the machine are new."""
        known = node.report.models
        if report.models is not known:
            report = replace(report, models=known)
        if node.unloaded_at or node.loading_until:
            remember_unloaded(node, report, now)
        if report.is_ready is not node.report.is_ready or report.is_paused is not node.report.is_paused:
            self.changes.note(node.id)
        node.report, node.last_heartbeat_at = report, now
        node.free_model_memory_bytes = report.model_memory_free_bytes

    def replace_report(self, node: Node, report: Report, now: float) -> None:
        """Replaces the newest report by one with what is known since; its age stays as it is."""
        reported_at = node.last_heartbeat_at
        self.apply_heartbeat(report, now)
        node.last_heartbeat_at = reported_at

    def drop_model(self, node: Node, model: ModelName) -> None:
        """Removes a model that the node did not have when requested; the next heartbeat may list it again."""
        if self.models.drop(node, model):
            self.version += 1
            self.changes.note(node.id)
            node.sent_models = {}

    def forget(self, node_id: NodeId) -> None:
        node = self.nodes.pop(node_id, None)
        if node is not None:
            self.models.remove(node, keep={})
            self.hosts.forget(node_id)
            self.version += 1
            self.changes.note(node_id)

    def mark_offline(self, node: Node) -> None:
        node.liveness = Liveness.OFFLINE
        self.version += 1
        self.changes.note(node.id)
