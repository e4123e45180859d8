"""Which models are fetched onto which node, from where, in which order, and who still wants them. Downloads nothing, knows no clock.

    wanted ──> QUEUED ──its node has no other──> RUNNING ──> DONE
                  └──nobody wants it any more──────┴──> CANCELLED, or FAILED with the reason

One fetch per node and model however many ask for it, one at a time on each node: two at once only share the disk and the line. A node of
the fleet that has the model is asked before the internet is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, Node, NodeId, canonical
from herd.errors import Refusal

QUEUED_MAX = 3
"""Fetches that wait on one node; more are refused."""
REMEMBERED_MAX = 200
"""Fetches that are over and can still be looked at."""
DISK_KEPT_SHARE = 0.2
"""Of a node's free disk, what a fetch leaves free."""
INTERNET = "internet"
DEFAULT_REGISTRY = "registry.ollama.ai"


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
    """How it is to be brought: as exactly this digest, from the local network alone, or from the internet whoever has it."""

    digest: str = ""
    lan_only: bool = False
    is_refresh: bool = False


@dataclass(slots=True, eq=False)
class Transfer:
    """One model on its way to one node. Bytes are of what is to be read in all; 0 while nobody has said."""

    id: int
    node_id: NodeId
    model: ModelName
    name: str
    asked_at: float
    """Unix seconds, as all times here."""
    digest: str = ""
    """What it must be; empty for whatever the name stands for now."""
    lan_only: bool = False
    is_refresh: bool = False
    """From the internet even where another node has it: the tag may stand for something newer there."""
    wanted_by: set[str] = field(default_factory=set)
    state: TransferState = TransferState.QUEUED
    source: str = ""
    """A node's id, or `internet`; empty before it runs."""
    status: str = ""
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By digest: bytes completed and in all."""
    error: str = ""
    ended_at: float | None = None
    then: tuple[NodeId, ...] = ()
    """Nodes that get it from this one when it is there."""

    @property
    def completed_bytes(self) -> int:
        return sum(completed for completed, _ in self.layers.values())

    @property
    def total_bytes(self) -> int:
        return sum(total for _, total in self.layers.values())


class TransferQueue:
    """The book of all fetches."""

    def __init__(self) -> None:
        self._all: OrderedDict[int, Transfer] = OrderedDict()
        self._last_id = 0

    def __iter__(self) -> Iterator[Transfer]:
        return iter(self._all.values())

    def get(self, fetch_id: int) -> Transfer | None:
        return self._all.get(fetch_id)

    def live(self, node_id: NodeId, model: ModelName) -> Transfer | None:
        return next(
            (
                one
                for one in self._all.values()
                if one.node_id == node_id and one.model == model and not one.state.is_over
            ),
            None,
        )

    def want(self, node: Node, name: str, by: str, at: float, wish: PullOptions) -> Transfer | Refusal:
        """The fetch that will bring it: one that is under way, or a new one."""
        model = canonical(name)
        known = self.live(node.id, model)
        if known is not None:
            known.wanted_by.add(by)
            return known
        waiting = sum(one.node_id == node.id and one.state is TransferState.QUEUED for one in self._all.values())
        if waiting >= QUEUED_MAX:
            message = f"{waiting} models wait to be fetched onto {node.id} already; see: herd pulls"
            return Refusal(429, "too_many_pulls", message, retry_after_s=60.0)
        self._last_id += 1
        fetch = Transfer(self._last_id, node.id, model, name, at, wish.digest, wish.lan_only, wish.is_refresh, {by})
        self._all[fetch.id] = fetch
        self._forget()
        return fetch

    def next(self, node_id: NodeId) -> Transfer | None:
        """The oldest that waits, if none runs on this node; it runs from now on."""
        of_node = [one for one in self._all.values() if one.node_id == node_id and not one.state.is_over]
        if not of_node or any(one.state is TransferState.RUNNING for one in of_node):
            return None
        of_node[0].state = TransferState.RUNNING
        return of_node[0]

    def release(self, fetch: Transfer, by: str, at: float) -> bool:
        """One less wants it; whether nobody does any more, and it is to be stopped."""
        fetch.wanted_by.discard(by)
        if fetch.wanted_by or fetch.state.is_over:
            return False
        self.end(fetch, TransferState.CANCELLED, at, "nobody wants it any more")
        return True

    def end(self, fetch: Transfer, state: TransferState, at: float, error: str = "") -> None:
        """Once; what comes later changes nothing."""
        if not fetch.state.is_over:
            fetch.state, fetch.ended_at, fetch.error = state, at, error

    def _forget(self) -> None:
        over = [one.id for one in self._all.values() if one.state.is_over]
        for fetch_id in over[: max(0, len(over) - REMEMBERED_MAX)]:
            del self._all[fetch_id]


# --- where from, where to ---


def sources(fleet: Fleet, target: NodeId, model: ModelName, digest: str) -> list[tuple[Node, ModelInfo]]:
    """Nodes that can give it, the least busy first. Where tags have drifted apart and no digest is named: what most of them have."""
    able = [
        (node, card)
        for node in fleet.with_model(model)
        if (card := node.card(model)) is not None
        and node.id != target
        and card.engine.library_url
        and card.digest
        and node.liveness in (Liveness.ONLINE, Liveness.DEGRADED)
    ]
    counts: dict[str, int] = {}
    for _, card in able:
        counts[card.digest] = counts.get(card.digest, 0) + 1
    wanted = digest or max(sorted(counts), key=lambda one: counts[one], default="")
    return sorted(
        ((n, c) for n, c in able if c.digest == wanted), key=lambda pair: (pair[0].report.cpu_utilization, pair[0].id)
    )


def drifted(fleet: Fleet, model: ModelName) -> dict[str, list[NodeId]]:
    """The digests under this name and who has each; more than one is drift."""
    found: dict[str, list[NodeId]] = {}
    for node in fleet.with_model(model):
        card = node.card(model)
        if card is not None and card.digest:
            found.setdefault(card.digest, []).append(node.id)
    return found


def can_download(node: Node) -> bool:
    """Whether it is there and has an engine that takes such orders."""
    is_there = node.liveness in (Liveness.ONLINE, Liveness.DEGRADED) and not node.report.draining
    return is_there and any(endpoint.abilities.can_pull for endpoint in node.report.engines)


def best_target(fleet: Fleet, model: ModelName, size_bytes: int) -> Node | Refusal:
    """Where a model that is asked for belongs: room on the disk, then the fastest memory among those that hold it, then the most room."""
    able = [node for node in fleet if can_download(node) and node.card(model) is None]
    if not able:
        return Refusal(
            503, "no_node", "no node that is here now can fetch models; see: herd status", retry_after_s=30.0
        )
    with_disk = [node for node in able if no_room(node, size_bytes) is None]
    if not with_disk:
        return Refusal(507, "no_disk", f"no node has room on its disk for {size_bytes / 1e9:.1f} GB")

    def worth(node: Node) -> tuple[bool, float, int, str]:
        report = node.report
        fits = report.memory_ceiling_bytes > size_bytes * 1.2 and not report.paused
        return fits, report.memory_bandwidth_gbps or 0.0, report.memory_ceiling_bytes, node.id

    return max(with_disk, key=worth)


def no_room(node: Node, size_bytes: int) -> str | None:
    """Why its disk cannot take so much; None where it can, or nobody knows."""
    disk = node.report.disk
    if disk is None or size_bytes <= disk.available_bytes * (1.0 - DISK_KEPT_SHARE):
        return None
    return (
        f"{node.id} has {disk.available_bytes / 1e9:.1f} GB free on its disk, a fifth of which is left free, and this is {size_bytes / 1e9:.1f} GB; "
        f"make room with: herd rm MODEL --node {node.id}"
    )


def registry_of(name: str) -> str:
    """The host a name would be fetched from: `[host/][namespace/]model[:tag]`, where a host has a dot, a port or is localhost."""
    head, slash, _ = name.partition("/")
    is_host = bool(slash) and ("." in head or ":" in head or head == "localhost" or name.count("/") > 1)
    return head.lower() if is_host else DEFAULT_REGISTRY


def may_come_from(name: str, allowed: tuple[str, ...]) -> Refusal | None:
    """None where the name's registry is one of those that the owner trusts."""
    registry = registry_of(name)
    if registry in allowed:
        return None
    return Refusal(
        403,
        "registry_not_allowed",
        f"models are not fetched from {registry}; allowed are {', '.join(allowed)} (FLEET_PULL_REGISTRIES)",
    )
