"""Manages the queue of model downloads: which model goes to which node, from which source, and who requested it.

    requested ──> QUEUED ──no other download on its node──> RUNNING ──> DONE
                    └──no requester is left─────────────────────┴──> CANCELLED, or FAILED with the reason

There is one download for each node and model, whatever the number of requesters, and each node runs one download at a
time: two would only share the disk and the network connection. A node that has the model is preferred over the internet
as a source.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, Node, NodeId, Report, canonical
from herd.core.state.model_names import OLLAMA_REGISTRY
from herd.core.state.nodes.labels import lacking, listed
from herd.errors import Refusal

QUEUED_MAX = 3
"""Most queued downloads of one node; more are refused."""
ENDED_MAX = 200
"""Ended downloads that are still listed."""
NO_MODEL = ModelName("")
DISK_RESERVE_SHARE = 0.2
"""Share of a node's free disk space that a download leaves free."""
STEPS_MAX = 2000
"""Maximum number of statuses that are stored for one download; a model has a few layers."""
INTERNET = "internet"
DEFAULT_REGISTRY = OLLAMA_REGISTRY


class TransferState(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED)


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How to download a model: only with this digest, only from the local network, or always from the internet."""

    digest: str = ""
    lan_only: bool = False
    is_refresh: bool = False


@dataclass(slots=True, eq=False, kw_only=True)
class Transfer:
    """One download of a model to a node. Times are in Unix seconds."""

    id: int
    node_id: NodeId
    model: ModelName
    name: str
    requested_at: float
    digest: str = ""
    """The digest that the model must have; empty: any digest."""
    lan_only: bool = False
    is_refresh: bool = False
    """Download from the internet even if another node has the model: the tag may have a newer version there."""
    wanted_by: set[str] = field(default_factory=set)
    state: TransferState = TransferState.QUEUED
    source: str = ""
    """A node's id, or `internet`; empty before the download starts."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    """The progress as the engine reports it: each status once, with the digest of the layer that it is about."""
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By digest: completed bytes and total bytes."""
    error: str = ""
    ended_at: float | None = None
    copy_to_nodes: tuple[NodeId, ...] = ()
    """Nodes that get the same version afterwards."""
    is_known: bool = False
    """The downloaded model is in the state of the fleet already, before a heartbeat reports it."""

    @property
    def status(self) -> str:
        """The newest status; empty before the first."""
        return self.steps[-1][0] if self.steps else ""

    def note(self, status: str, digest: str) -> None:
        if status and (not self.steps or self.steps[-1] != (status, digest)) and len(self.steps) < STEPS_MAX:
            self.steps.append((status, digest))

    @property
    def completed_bytes(self) -> int:
        return sum(completed for completed, _ in self.layers.values())

    @property
    def total_bytes(self) -> int:
        return sum(total for _, total in self.layers.values())


class TransferQueue:
    """All downloads: queued, running and recently ended."""

    def __init__(self) -> None:
        self._all: OrderedDict[int, Transfer] = OrderedDict()
        self._last_id = 0

    def __iter__(self) -> Iterator[Transfer]:
        return iter(self._all.values())

    def get(self, transfer_id: int) -> Transfer | None:
        return self._all.get(transfer_id)

    def unfinished(self, node_id: NodeId, model: ModelName) -> Transfer | None:
        of_node = self._unfinished_of(node_id)
        return next((transfer for transfer in of_node if transfer.model == model), None)

    def unfinished_count(self, node_id: NodeId) -> int:
        return len(self._unfinished_of(node_id))

    def _unfinished_of(self, node_id: NodeId) -> list[Transfer]:
        return [
            transfer for transfer in self._all.values() if transfer.node_id == node_id and not transfer.state.is_over
        ]

    def add(self, node: Node, name: str, by: str, now: float, options: PullOptions) -> Transfer | Refusal:
        """The download of this model to this node: the present one, or a new one."""
        model = canonical(name)
        known = self.unfinished(node.id, model)
        if known is not None:
            known.wanted_by.add(by)
            return known
        queued = sum(transfer.state is TransferState.QUEUED for transfer in self._unfinished_of(node.id))
        if queued >= QUEUED_MAX:
            message = f"{queued} downloads to {node.id} are queued already; see: herd pulls"
            return Refusal(429, "too_many_pulls", message, retry_after_s=60.0)
        self._last_id += 1
        transfer = Transfer(
            id=self._last_id,
            node_id=node.id,
            model=model,
            name=name,
            requested_at=now,
            digest=options.digest,
            lan_only=options.lan_only,
            is_refresh=options.is_refresh,
            wanted_by={by},
        )
        self._all[transfer.id] = transfer
        self._forget()
        return transfer

    def next(self, node_id: NodeId) -> Transfer | None:
        """Starts the oldest queued download of this node, if none is running there."""
        of_node = self._unfinished_of(node_id)
        if not of_node or any(transfer.state is TransferState.RUNNING for transfer in of_node):
            return None
        of_node[0].state = TransferState.RUNNING
        return of_node[0]

    def release(self, transfer: Transfer, by: str, now: float) -> bool:
        """Removes a requester. Returns whether none is left, so that the download must stop."""
        transfer.wanted_by.discard(by)
        if transfer.wanted_by or transfer.state.is_over:
            return False
        self.end(transfer, TransferState.CANCELLED, now, "no requester is left")
        return True

    def end(self, transfer: Transfer, state: TransferState, now: float, error: str = "") -> None:
        """Sets the final state; a second call changes nothing."""
        if not transfer.state.is_over:
            transfer.state, transfer.ended_at, transfer.error = state, now, error

    def _forget(self) -> None:
        over = [transfer.id for transfer in self._all.values() if transfer.state.is_over]
        for transfer_id in over[: max(0, len(over) - ENDED_MAX)]:
            del self._all[transfer_id]


# --- sources and targets ---


def sources(fleet: Fleet, target: NodeId, model: ModelName, digest: str) -> list[tuple[Node, ModelInfo]]:
    """Nodes that can provide the model, the least busy first. Without a digest: the version that most of them have."""
    candidates = [
        (node, model_info)
        for node in fleet.with_model(model)
        if (model_info := node.model_info(model)) is not None
        and node.id != target
        and model_info.engine.library_url
        and model_info.digest
        and node.liveness in (Liveness.ONLINE, Liveness.DEGRADED)
        and not node.report.is_leaving
    ]
    counts: dict[str, int] = {}
    for _, model_info in candidates:
        counts[model_info.digest] = counts.get(model_info.digest, 0) + 1
    wanted = digest or max(sorted(counts), key=lambda found: counts[found], default="")
    return sorted(
        ((node, model_info) for node, model_info in candidates if model_info.digest == wanted),
        key=lambda pair: (pair[0].report.cpu_utilization, pair[0].id),
    )


def versions(fleet: Fleet, model: ModelName) -> dict[str, list[NodeId]]:
    """The digests of this name, each with its nodes. More than one digest means that the versions differ."""
    found: dict[str, list[NodeId]] = {}
    for node in fleet.with_model(model):
        model_info = node.model_info(model)
        if model_info is not None and model_info.digest:
            found.setdefault(model_info.digest, []).append(node.id)
    return found


def can_download(node: Node) -> bool:
    """Whether the node is online and has an engine that downloads models."""
    is_online = node.liveness in (Liveness.ONLINE, Liveness.DEGRADED) and not node.report.is_leaving
    return is_online and any(endpoint.abilities.can_pull and not endpoint.problem for endpoint in node.report.engines)


def holders(fleet: Fleet, model: ModelName) -> list[NodeId]:
    """The nodes that have the model and could download it again, sorted."""
    return sorted(node.id for node in fleet.with_model(model) if can_download(node))


def best_target(
    fleet: Fleet, model: ModelName, size_bytes: int, labels: frozenset[str] = frozenset()
) -> Node | Refusal:
    """The best node for a new model: with enough disk space, then enough memory, then the fastest memory, then the most
    memory. It must have these labels. A node that an administrator has paused is only a target if it is named."""
    candidates = [
        node
        for node in fleet
        if can_download(node) and node.model_info(model) is None and not lacking(labels, node.report.all_labels)
    ]
    if not candidates and labels:
        return Refusal(503, "no_node", f"no node with {listed(labels)} can download it now; see: herd nodes")
    paused = [node for node in candidates if not node.report.administration.is_active]
    candidates = [node for node in candidates if node not in paused]
    if not candidates and paused:
        node = paused[0]
        message = f"no other node can download models, and {node.id} is {node.report.administration.why(node.id)}"
        return Refusal(503, "no_node", message, retry_after_s=30.0)
    if not candidates:
        return Refusal(503, "no_node", "no online node can download models; see: herd status", retry_after_s=30.0)
    with_disk = [node for node in candidates if disk_problem(node, size_bytes) is None]
    if not with_disk:
        return Refusal(507, "no_disk", f"no node has enough disk space for {size_bytes / 1e9:.1f} GB")

    def rank(node: Node) -> tuple[bool, float, int, str]:
        report = node.report
        fits = report.memory_ceiling_bytes > size_bytes * 1.2 and not report.is_paused
        return fits, report.memory_bandwidth_gbps or 0.0, report.memory_ceiling_bytes, node.id

    return max(with_disk, key=rank)


def disk_problem(node: Node, size_bytes: int, model: ModelName = NO_MODEL) -> str | None:
    """Why the node's disk or its budget cannot take this many bytes; None if they can, or if its disk is unknown.

    The files of `model` there are replaced, so a budget has their room. The disk needs room for both until then.
    """
    disk, limit = node.report.disk, node.report.budget.disk_bytes
    used_bytes = node.report.model_disk_bytes - _replaced_bytes(node.report, model)
    if limit is not None and used_bytes + size_bytes > limit:
        return (
            f"{node.id} has a budget of {limit / 1e9:.1f} GB of disk for models, of which "
            f"{used_bytes / 1e9:.1f} GB are used, and the model has {size_bytes / 1e9:.1f} GB; "
            f"make room with: herd rm MODEL --node {node.id}"
        )
    if disk is None or size_bytes <= disk.available_bytes * (1.0 - DISK_RESERVE_SHARE):
        return None
    return (
        f"{node.id} has {disk.available_bytes / 1e9:.1f} GB of free disk space, a fifth of which is reserved, "
        f"and the model has {size_bytes / 1e9:.1f} GB; "
        f"make room with: herd rm MODEL --node {node.id}"
    )


def _replaced_bytes(report: Report, model: ModelName) -> int:
    """The size of the files that no other name uses."""
    old = report.models.get(model)
    if old is None:
        return 0
    others = (info.digest for name, info in report.models.items() if name != model)
    return 0 if old.digest and old.digest in others else old.size_bytes


def registry_of(name: str) -> str:
    """The registry host of a name `[https://][host/][namespace/]model[:tag]`: a host has a dot or a port, or is
    localhost."""
    name = name.removeprefix("https://")
    head, slash, _ = name.partition("/")
    is_host = bool(slash) and ("." in head or ":" in head or head == "localhost" or name.count("/") > 1)
    return head.lower() if is_host else DEFAULT_REGISTRY


def registry_refusal(name: str, allowed: tuple[str, ...]) -> Refusal | None:
    """None if the name's registry is allowed by the settings."""
    registry = registry_of(name)
    if registry in allowed:
        return None
    return Refusal(
        403,
        "registry_not_allowed",
        f"registry {registry} is not allowed; allowed registries: {', '.join(allowed)} (FLEET_PULL_REGISTRIES)",
    )
