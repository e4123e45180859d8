"""What we believe of every node: who is there, what it has on disk and in memory. Decides nothing.

Read this file first. A `Report` is what one heartbeat said and is replaced whole, never changed, so whoever
holds one holds a snapshot. A `Node` is our running belief: the newest report and what we learned since.
Sizes are bytes, times are seconds on the caller's monotonic clock, windows are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import NewType

NodeId = NewType("NodeId", str)
ModelName = NewType("ModelName", str)

GB = 1_000_000_000
"""Where a person reads gigabytes, they are decimal: what a disk's box and Ollama's `ollama list` say."""

WARM_FOR_S = 1800.0
"""An unloaded model is probably still in the page cache for this long (compatibility: "unloaded within 30 min")."""

NAMES_REMEMBERED_MAX = 1024
"""Spellings of models whose key is remembered: it is asked for several times in every request."""

LOADING_DOUBT_S = 30.0
"""A load that is so much overdue without any heartbeat showing it has probably failed."""


@lru_cache(NAMES_REMEMBERED_MAX)
def canonical(name: str) -> ModelName:
    """The one key of a model: `m` and `m:latest` are the same, and case does not matter (Ollama's own rule)."""
    tail = name.rpartition("/")[2]
    return ModelName((name if ":" in tail else name + ":latest").lower())


class Pressure(Enum):
    """How short of memory the operating system says it is."""

    NORMAL = "normal"
    WARN = "warn"
    CRITICAL = "critical"


class Liveness(Enum):
    """What silence or failure makes of a node. Only ONLINE and DEGRADED are routable."""

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


NO_ABILITIES = EngineAbilities()


@dataclass(frozen=True, slots=True)
class EngineEndpoint:
    """One inference server of a node, as the coordinator reaches it.

    `kind` names a file in `engines/`; `url` is "http://host:port" without a path; `slots` is how many requests
    the engine really runs at the same time per model (Ollama: OLLAMA_NUM_PARALLEL, default 1).
    """

    kind: str
    url: str
    version: str = ""
    slots: int = 1
    models_max: int | None = None
    library_url: str = ""
    """Where its agent shares its models with the fleet; empty where it does not."""
    abilities: EngineAbilities = field(default=NO_ABILITIES, compare=False)
    """Follows from `kind`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: what it occupies and the window one request may use."""

    size_bytes: int
    window_tokens: int | None = None
    vram_bytes: int | None = None
    context_explicit: bool | None = None
    """Whether somebody chose this window, as against the engine itself; None where nobody tells."""
    expires_at: str = ""
    """When the engine will unload it, as the engine said it (RFC 3339); empty where it did not say."""
    is_other_name: bool = False
    """It is there under another name of the same file, which is where its memory is counted."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model on one node: what is on disk, and `loaded` when it is in memory too.

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
    modified_at: str = ""
    loaded: Loaded | None = None
    kv_bytes_per_token: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    total_bytes: int
    used_bytes: int
    available_bytes: int
    pressure: Pressure = Pressure.NORMAL
    swap_used_bytes: int = 0
    swap_total_bytes: int = 0
    wired_bytes: int = 0
    compressed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    total_bytes: int
    used_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card with memory of its own."""

    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the owner lends us now, learnt by the agent (168 slots a week); absent on nodes that do not learn.

    `ceiling_bytes` is the memory models may take, `score` 0..1, `trend` is "rising", "stable" or "falling".
    """

    mode: str
    ceiling_bytes: int
    score: float
    trend: str = "stable"
    reason: str = ""
    paused: bool = False
    override_active: bool = False
    learning_confidence: float = 0.0
    days_observed: int = 0
    week: tuple[float | None, ...] | None = None
    """What was learnt of each hour of the week, 0..1, from Monday 0:00 in the node's own time; None for an hour never seen."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one heartbeat said of a node. Replaced, never changed."""

    node_id: NodeId
    boot_id: str
    memory: Memory
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
    """What its own clock said as it was sent, unix seconds."""

    @property
    def memory_ceiling_bytes(self) -> int:
        """What models may fill: graphics memory where there is some, else main memory, never above the lent ceiling."""
        physical = self.gpu_memory_bytes or self.memory.total_bytes
        return min(physical, self.capacity.ceiling_bytes) if self.capacity else physical

    @property
    def gpu_memory_bytes(self) -> int:
        return sum(gpu.memory_total_bytes for gpu in self.gpus)

    @property
    def memory_used_bytes(self) -> int:
        """What is taken of that ceiling's memory now."""
        if self.gpus:
            return sum(gpu.memory_used_bytes for gpu in self.gpus)
        return self.memory.used_bytes


@dataclass(slots=True, eq=False)
class Node:
    """Our belief of one node. Hot: slots, not frozen, compared by identity."""

    id: NodeId
    report: Report
    last_heartbeat_at: float
    first_heartbeat_at: float
    liveness: Liveness = Liveness.ONLINE
    unreachable_until: float = 0.0
    connect_failures: int = 0
    refused_at: float = -math.inf
    """When it last refused a connection."""
    unauthorized_until: float = 0.0
    """It does not know our key: until then it is not asked again."""
    returned_at: float = -math.inf
    """When it was last heard after having been silent for so long that it counted as gone."""
    returns: int = 0
    """How often it has returned of late; more than once is flapping."""
    heartbeats_since_return: int = 0
    untrusted_until: float = 0.0
    """A node that flaps is not trusted before this, nor before three heartbeats in a row."""
    room_bytes: int = 0
    """Memory that nothing occupies, of what models may fill: by the newest report."""
    loaded: dict[ModelName, Loaded] = field(default_factory=dict)
    """What the newest report says is in memory; kept apart because every decision reads it."""
    loaded_until: dict[ModelName, float] = field(default_factory=dict)
    loading_until: dict[ModelName, float] = field(default_factory=dict)
    """Models that we caused to be loaded, and when that should be done; no heartbeat has confirmed them yet."""
    learned_at: float = -1.0
    """When an answer of this node last taught us something."""
    starts: int = 0
    """Attempts ever started here: tells whether anybody else came while one ran."""

    def card(self, model: ModelName) -> ModelInfo | None:
        return self.report.models.get(model)

    def is_loaded(self, model: ModelName) -> bool:
        return model in self.loaded


def _with_other_names(report: Report) -> Report:
    """With every name of a file that is in memory: engines tell only the one that was last used, and have one runner for all of them."""
    there = {
        (card.engine.url, card.digest): card.loaded
        for card in report.models.values()
        if card.loaded is not None and card.digest
    }
    others = {
        name: replace(card, loaded=replace(loaded, size_bytes=0, vram_bytes=None, is_other_name=True))
        for name, card in report.models.items()
        if card.loaded is None and (loaded := there.get((card.engine.url, card.digest))) is not None
    }
    return replace(report, models={**report.models, **others}) if others else report


class Fleet:
    """All nodes, and which of them have which model, so that a decision's cost follows its candidates."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.version = 0
        """Grows with every change of belief; answers made from memory are cached against it."""
        self._by_model: dict[ModelName, dict[NodeId, Node]] = {}

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def node(self, node_id: NodeId) -> Node | None:
        return self.nodes.get(node_id)

    def with_model(self, model: ModelName) -> Collection[Node]:
        """Every node that said it has the model, in the order in which they first said so."""
        return self._by_model.get(model, {}).values()

    def knows(self, model: ModelName) -> bool:
        return bool(self._by_model.get(model))

    @property
    def model_names(self) -> list[ModelName]:
        return sorted(name for name, nodes in self._by_model.items() if nodes)

    def apply_heartbeat(self, report: Report, at: float) -> Node:
        """Takes a heartbeat in: replaces the report, keeps the index of models, remembers what was unloaded."""
        report = _with_other_names(report)
        node = self.nodes.get(report.node_id)
        self.version += 1
        if node is None:
            node = Node(report.node_id, report, at, at)
            self.nodes[node.id] = node
        else:
            self._remember_unloaded(node, report, at)
            self._unindex(node, keep=report.models)
        node.report, node.last_heartbeat_at = report, at
        node.room_bytes = max(0, report.memory_ceiling_bytes - report.memory_used_bytes)
        node.loaded = {name: card.loaded for name, card in report.models.items() if card.loaded is not None}
        for model in report.models:
            self._by_model.setdefault(model, {})[node.id] = node
        return node

    def drop_model(self, node: Node, model: ModelName) -> None:
        """The node was asked and did not have it after all; the next heartbeat says what is true."""
        nodes = self._by_model.get(model, {})
        if nodes.pop(node.id, None) is not None:
            self.version += 1

    def forget(self, node_id: NodeId) -> None:
        node = self.nodes.pop(node_id, None)
        if node is not None:
            self._unindex(node, keep={})
            self.version += 1

    def _unindex(self, node: Node, keep: Mapping[ModelName, ModelInfo]) -> None:
        for model in node.report.models:
            nodes = self._by_model.get(model)
            if model in keep or nodes is None:
                continue
            nodes.pop(node.id, None)
            if not nodes:
                del self._by_model[model]

    @staticmethod
    def _remember_unloaded(node: Node, report: Report, at: float) -> None:
        if report.boot_id != node.report.boot_id:
            node.loaded_until.clear()
            node.loading_until.clear()
        for model, card in node.report.models.items():
            now = report.models.get(model)
            if card.loaded is not None and (now is None or now.loaded is None):
                node.loaded_until[model] = at
            elif now is not None and now.loaded is not None:
                node.loaded_until.pop(model, None)
                node.loading_until.pop(model, None)
        for model in [m for m, since in node.loaded_until.items() if at - since > WARM_FOR_S]:
            del node.loaded_until[model]
        for model in [m for m, until in node.loading_until.items() if at - until > LOADING_DOUBT_S]:
            del node.loading_until[model]
