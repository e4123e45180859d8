"""Serves the routes by which an administrator pauses, drains and resumes nodes, and what each node still does.

Access control has already checked the right of each route. Every change is in the audit.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.audit import audit_entry
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.nodes.administration import NodeAdministration
from herd.coordinator.storage.credential_store import CredentialStore
from herd.coordinator.storage.writer import TraceStore
from herd.core.lifecycle.node_work import work_on
from herd.core.state.fleet import NodeId
from herd.core.state.nodes.administration import Administration, Duty
from herd.core.state.nodes.budget import Budget, parse_amount
from herd.core.state.nodes.labels import edited, parse_labels
from herd.errors import BadRequest, NotFound
from herd.trust.keys import ApiKey
from herd.trust.rights import Right

REASON_MAX_CHARS = 200
NAMES_MAX = 5
ADMINISTRATOR = "an administrator"
"""Who has changed something without a key: a user of the coordinator's machine, or of its dashboard."""


class WantedDuty(msgspec.Struct):
    """The node, and why, for people."""

    name: str
    reason: str = ""


class WantedLabels(msgspec.Struct):
    """Labels to add to a node, and labels to remove; a new value replaces the old one of the same name."""

    name: str
    labels: list[str] = msgspec.field(default_factory=list)
    remove: list[str] = msgspec.field(default_factory=list)


class WantedBudget(msgspec.Struct):
    """How much models may use on a node: `20GB` or `50%`, `none` for no limit; an empty text changes nothing."""

    name: str
    memory: str = ""
    disk: str = ""


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """One node: what is set for it, and what it still does. `status` is that of `/fleet/status`, or "away".

    `left_s`: when the last running request will probably end; None if that is unknown. `transfers`: downloads to the
    node that have not ended. `machine`: the node of the same machine, for a further engine; else empty.
    """

    node_id: str
    machine: str
    status: str
    duty: str
    reason: str
    by: str
    since: float | None
    labels: list[str]
    memory_budget_bytes: int | None
    disk_budget_bytes: int | None
    running: int
    waiting: int
    transfers: int
    left_s: float | None
    is_empty: bool


@dataclass(frozen=True, slots=True)
class NodeSources:
    """What the routes read. `transfers(node)` counts the node's unfinished downloads."""

    driver: Driver
    credentials: CredentialStore
    transfers: Callable[[NodeId], int]
    unix_s: Callable[[], float]


class NodesApi:
    def __init__(self, administration: NodeAdministration, sources: NodeSources, store: TraceStore) -> None:
        self._administration = administration
        self._driver = sources.driver
        self._sources = sources
        self._store = store

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/fleet/nodes/pause", json_errors(self.pause), "POST", Right.ADMIN, WantedDuty),
            ApiRoute("/fleet/nodes/drain", json_errors(self.drain), "POST", Right.ADMIN, WantedDuty),
            ApiRoute("/fleet/nodes/resume", json_errors(self.resume), "POST", Right.ADMIN, WantedDuty),
            ApiRoute("/fleet/nodes/budget", json_errors(self.budget), "POST", Right.ADMIN, WantedBudget),
            ApiRoute("/fleet/nodes/label", json_errors(self.label), "POST", Right.ADMIN, WantedLabels),
        ]

    async def pause(self, request: Request) -> Response:
        """Lets a node get no new requests: `{"name", "reason"}`. Running requests finish, and it stays in the list.

        Its queued requests move to other nodes. The state survives restarts, until the node is resumed.
        """
        return await self._set_duty(request, Duty.PAUSED, "paused a node")

    async def drain(self, request: Request) -> Response:
        """Empties a node that will be switched off: like pause, and nothing is downloaded to it or copied from it."""
        return await self._set_duty(request, Duty.DRAINING, "drained a node")

    async def resume(self, request: Request) -> Response:
        """Ends a pause or a drain: the node gets requests again."""
        return await self._set_duty(request, Duty.ACTIVE, "resumed a node")

    async def budget(self, request: Request) -> Response:
        """Limits what models may use on a node: `{"name", "memory", "disk"}`, e.g. `20GB`, `50%` or `none`.

        Loads, downloads, copies, pins and recommendations respect it. A smaller limit of the node's own settings wins.
        """
        wanted = await read_body(request, WantedBudget)
        node_id = self._known(wanted.name)
        node = self._driver.fleet.node(node_id)
        if node is None and "%" in wanted.memory + wanted.disk:
            raise BadRequest(f"{node_id} is away, so its size is unknown; set the budget in GB")
        memory_bytes = node.report.gpu_memory_bytes or node.report.memory.total_bytes if node is not None else 0
        disk = node.report.disk if node is not None else None
        if disk is None and "%" in wanted.disk:
            raise BadRequest(f"{node_id} reports no disk; set the budget in GB")
        try:
            memory = parse_amount(wanted.memory, memory_bytes)
            disk_limit = parse_amount(wanted.disk, disk.total_bytes if disk is not None else 0)
        except ValueError as error:
            raise BadRequest(str(error)) from error

        def limited(known: Administration) -> Administration:
            budget = Budget(
                memory if wanted.memory else known.budget.memory_bytes,
                disk_limit if wanted.disk else known.budget.disk_bytes,
            )
            return replace(known, budget=budget)

        return await self._change(request, node_id, limited, "set the budget of a node")

    async def label(self, request: Request) -> Response:
        """Adds and removes labels of a node: `{"name", "labels", "remove"}`. Requests and keys can require labels."""
        wanted = await read_body(request, WantedLabels)
        node_id = self._known(wanted.name)
        try:
            added, removed = parse_labels(wanted.labels), parse_labels(wanted.remove)
            parse_labels(edited(self._administration.of(node_id).labels, added, removed))
        except ValueError as error:
            raise BadRequest(str(error)) from error
        if fixed := sorted(removed & self._own_labels(node_id)):
            raise BadRequest(f"{fixed[0]} is set on {node_id} itself; remove it there from FLEET_NODE_LABELS")

        def relabelled(known: Administration) -> Administration:
            return replace(known, labels=edited(known.labels, added, removed))

        return await self._change(request, node_id, relabelled, "labelled a node")

    def _own_labels(self, node_id: NodeId) -> frozenset[str]:
        """The labels of the agent's settings."""
        node = self._driver.fleet.node(node_id)
        return node.report.labels if node is not None else frozenset()

    async def _set_duty(self, request: Request, duty: Duty, action: str) -> Response:
        wanted = await read_body(request, WantedDuty)
        node_id, reason = self._known(wanted.name), wanted.reason.strip()
        if len(reason) > REASON_MAX_CHARS or not reason.isprintable():
            raise BadRequest(f"the reason may have at most {REASON_MAX_CHARS} printable characters")
        now = self._sources.unix_s()

        def edited(known: Administration) -> Administration:
            if duty is Duty.ACTIVE:
                return replace(known, duty=duty, reason="", by="", since_unix_s=0.0)
            return replace(known, duty=duty, reason=reason, by=_name_of(request), since_unix_s=now)

        return await self._change(request, node_id, edited, action)

    async def _change(
        self, request: Request, node_id: NodeId, edit: Callable[[Administration], Administration], action: str
    ) -> Response:
        try:
            await self._administration.change(node_id, edit)
        except OverflowError as error:
            raise BadRequest(str(error)) from error
        self._store.audit(audit_entry(request, action, node_id))
        return json_response(self.line(node_id))

    async def forget(self, node_id: NodeId) -> None:
        """Removes what is set for a node that was removed from the fleet. Raises `OSError`."""
        await self._administration.forget(node_id)

    def _known(self, name: str) -> NodeId:
        """The node with this name: in the fleet, paired, or with something set. Raises `NotFound`."""
        node_id, known = NodeId(name), self.names()
        if node_id not in known:
            near = get_close_matches(name, known, n=NAMES_MAX, cutoff=0.4) or known[:NAMES_MAX]
            listed = f"the fleet has {', '.join(near)}" if near else "no node has joined yet"
            raise NotFound(f"no node is named {name[:80]!r}; {listed}; list the nodes with: herd nodes", "unknown_node")
        return node_id

    def names(self) -> list[NodeId]:
        fleet = self._driver.fleet
        return sorted({*fleet.nodes, *self._sources.credentials.nodes, *fleet.administrations})

    def lines(self) -> list[NodeLine]:
        """Every node, sorted by name."""
        return [self.line(node_id) for node_id in self.names()]

    def line(self, node_id: NodeId) -> NodeLine:
        node, administration = self._driver.fleet.node(node_id), self._administration.of(node_id)
        work = work_on(self._driver.queues.of_node(node_id), self._driver.dispatcher.latencies, self._driver.now())
        transfers = self._sources.transfers(node_id)
        budget = node.report.budget if node is not None else administration.budget
        return NodeLine(
            node_id=node_id,
            machine=node.report.machine if node is not None else "",
            status=node.liveness.value if node is not None else "away",
            duty=administration.duty.value,
            reason=administration.reason,
            by=administration.by,
            since=administration.since_unix_s or None,
            labels=sorted(administration.labels | self._own_labels(node_id)),
            memory_budget_bytes=budget.memory_bytes,
            disk_budget_bytes=budget.disk_bytes,
            running=work.running,
            waiting=work.waiting,
            transfers=transfers,
            left_s=round(work.left_s, 1) if work.left_s is not None else None,
            is_empty=not (work.running or work.waiting or transfers),
        )


def _name_of(request: Request) -> str:
    """Who sends the request, for people: the name of the key, or that it is an administrator."""
    key = request.scope.get("state", {}).get("key")
    return f"the key {shlex.quote(key.name)}" if isinstance(key, ApiKey) else ADMINISTRATOR
