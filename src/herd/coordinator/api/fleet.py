"""Serves the heartbeats of nodes, and the status, queue and limits of the fleet."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from herd.agent_protocol import heartbeat_decode
from herd.bounded import BoundedDict
from herd.coordinator.api import views
from herd.coordinator.api.fleet_status import FleetStatus
from herd.coordinator.api.peers_text import PeersText
from herd.coordinator.api.responses import json_errors, json_response
from herd.coordinator.auth.audit import client_ip
from herd.coordinator.auth.membership import Membership, NodeNotPaired, Reporter
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.queue_counts import QueueCounts
from herd.coordinator.storage.writer import TraceStore
from herd.core.lifecycle.node_names import NodeNames, boot_id_at
from herd.core.state.events import HeartbeatReceived, NodeLeft
from herd.core.state.fleet import EngineAbilities, NodeId, Report
from herd.errors import BadRequest
from herd.trust.pairing import NODE_NAME_MAX_CHARS
from herd.trust.rights import Right

log = logging.getLogger("herd.membership")

STOPPING_S = 3.0
"""How long a report does not end a drain: an agent of ollama-herd may send the one that it has already taken."""
DRAINED_MAX = 1024
CANNOT_PAIR = (
    "an agent of ollama-herd cannot be paired; approve its address on the coordinator with: herd nodes approve {ip} "
    "(or, on its machine, run herd-node with the code of: herd nodes invite; or start the coordinator with "
    "FLEET_OPEN=true while you migrate)"
)
PEERS_MAX = 1024
"""Addresses of other nodes, which may copy this node's models, in an answer to a heartbeat."""


class Goodbye(msgspec.Struct):
    """The message of an agent that shuts down."""

    node_id: str
    boot_id: str = ""


class FleetApi:
    def __init__(
        self,
        driver: Driver,
        store: TraceStore,
        membership: Membership,
        limits: dict[str, object],
        capture: Callable[[], dict[str, object]],
        heartbeat_received: Callable[[], None],
        lag_ms: Callable[[], float],
        abilities: Mapping[str, EngineAbilities],
        counts: QueueCounts,
        retries_max: int,
    ) -> None:
        """`capture()` returns whether prompts are captured, `lag_ms()` is the recent lag of the event loop.

        `heartbeat_received()` is called after each heartbeat.
        """
        self._abilities = abilities
        self._counts = counts
        self._retries_max = retries_max
        self._driver = driver
        self._membership = membership
        self._limits = limits
        self._status = FleetStatus(driver, store, lambda: membership.settings.open, capture, lag_ms)
        self._heartbeat_received = heartbeat_received
        self._node_names = NodeNames()
        self._known_engines = heartbeat_decode.KnownEngines()
        self._peers = PeersText(driver.fleet.hosts, PEERS_MAX)
        self._further = BoundedDict[NodeId, list[NodeId]](DRAINED_MAX)
        """The nodes of each machine's further engines."""
        self._drained_at = BoundedDict[NodeId, float](DRAINED_MAX)

    @property
    def routes(self) -> list[ApiRoute]:
        """Heartbeats need no right here: `membership` verifies their signatures."""
        return [
            ApiRoute("/heartbeat", json_errors(self.heartbeat), "POST", Right.OPEN),
            ApiRoute("/heartbeat/goodbye", json_errors(self.goodbye), "POST", Right.OPEN, Goodbye),
            ApiRoute("/fleet/status", json_errors(self.status), "GET", Right.READ),
            ApiRoute("/fleet/queue", json_errors(self.queue), "GET", Right.READ),
            ApiRoute("/fleet/limits", json_errors(self.fleet_limits), "GET", Right.READ),
            ApiRoute("/health", self.health, "GET", Right.OPEN),
        ]

    async def heartbeat(self, request: Request) -> Response:
        """Receives the report of a node. 422: the report is invalid; 401: the node is unknown.

        The 422 names the field. An error changes nothing.
        """
        body = await request.body()
        source_ip = client_ip(request)
        try:
            reporter = self._reporter(request, body)
        except NodeNotPaired:
            if not heartbeat_decode.ollama_herd_node(body):
                raise
            raise self._refusal_of_unsigned(body, source_ip) from None
        drained = heartbeat_decode.drain_signal(body)
        if drained is not None:
            name = reporter.node_id or self._unsigned_name(drained, source_ip, body)
            return _signed(reporter, self._drain(name, source_ip))
        report, *further = heartbeat_decode.decode_all(body, source_ip, self._abilities, self._known_engines)
        claimed = reporter.node_id or self._unsigned_name(report.node_id, source_ip, body)
        self._membership.check_engine_urls(
            (
                url
                for of in (report, *further)
                for endpoint in of.engines
                for url in (endpoint.url, endpoint.library_url)
                if url
            ),
            reporter,
        )
        now = self._driver.now()
        node_id = self._node_names.assign(claimed, report.boot_id, source_ip, now)
        if node_id != report.node_id:
            report = heartbeat_decode.with_node_id(report, node_id)
        if now - self._drained_at.get(node_id, -math.inf) < STOPPING_S:
            report = replace(report, draining=True)
        self._driver.feed(HeartbeatReceived(now, report))
        nodes = [node_id, *self._take_further(node_id, further, source_ip, now, report.draining)]
        self._heartbeat_received()
        queues = [queue for of in nodes for queue in self._driver.queues.of_node(of).values()]
        running = sum(len(queue.in_flight) for queue in queues)
        peers = self._peers.of_others(node_id)
        answer = {"status": "ok", "node_id": node_id, "running": running, "peers": peers}
        return _signed(reporter, json_response(answer))

    def _take_further(
        self, machine: NodeId, reports: list[Report], source_ip: str, now: float, is_draining: bool
    ) -> list[NodeId]:
        """Applies the reports of a machine's further engines; a node whose engine is no longer reported leaves."""
        known = self._further.get(machine, [])
        if not reports and not known:
            return []
        named: list[NodeId] = []
        for report in reports:
            claimed = heartbeat_decode.further_id(machine, report.engines[0].instance)
            node_id = self._node_names.assign(claimed, report.boot_id, source_ip, now)
            renamed = heartbeat_decode.with_node_id(report, node_id, machine)
            self._driver.feed(HeartbeatReceived(now, replace(renamed, draining=is_draining)))
            named.append(node_id)
        for node_id in known:
            if node_id not in named:
                self._driver.feed(NodeLeft(now, node_id))
                self._node_names.release(node_id)
        self._further[machine] = named
        return named

    def _refusal_of_unsigned(self, body: bytes, source_ip: str) -> NodeNotPaired:
        """The refusal of an agent of ollama-herd, which then waits for approval; logged once for each address."""
        message, name = CANNOT_PAIR.format(ip=source_ip), heartbeat_decode.ollama_herd_node(body)
        is_name = 0 < len(name) <= NODE_NAME_MAX_CHARS and name.isprintable()
        if is_name and self._membership.note_unsigned(name, source_ip):
            log.warning("a report was refused: %s", message, extra={"ip": source_ip})
        return NodeNotPaired(message)

    def _drain(self, node_id: NodeId, source_ip: str) -> Response:
        """Notes that the node of an ollama-herd agent takes no more requests; what runs there may finish."""
        boot_id = boot_id_at(source_ip)
        for node in self._driver.fleet:
            if node.report.boot_id == boot_id and (node.id == node_id or node.id.startswith(f"{node_id}-")):
                now = self._driver.now()
                self._drained_at[node.id] = now
                self._driver.feed(HeartbeatReceived(now, replace(node.report, draining=True)))
                break
        return json_response({"status": "draining", "node_id": node_id})

    def _unsigned_name(self, node_id: NodeId, source_ip: str, body: bytes) -> NodeId:
        """The name of the node that sent this unsigned report. Raises `NodeNotPaired`."""
        name = self._membership.unsigned_name(node_id, source_ip)
        if name is not None:
            return name
        if heartbeat_decode.ollama_herd_node(body):
            raise self._refusal_of_unsigned(body, source_ip)
        raise NodeNotPaired(
            f"{node_id} is the name of a paired node, and this report is not signed by it; start this agent under "
            f"another name (herd-node --node-id NAME), or on the coordinator run: "
            f"herd nodes remove {shlex.quote(node_id)}"
        )

    async def goodbye(self, request: Request) -> Response:
        """Removes the node of an agent that shuts down; its queued requests move to other nodes."""
        body = await request.body()
        reporter = self._reporter(request, body)
        try:
            message = msgspec.json.decode(body, type=Goodbye)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise BadRequest(f"invalid goodbye message: {error}") from error
        node_id = NodeId(message.node_id)
        if reporter.node_id is not None:
            node_id = self._node_names.assign(reporter.node_id, message.boot_id, client_ip(request), self._driver.now())
        elif (name := self._membership.unsigned_name(node_id, client_ip(request))) is None:
            raise NodeNotPaired(f"{node_id} is a paired node, but this goodbye is not signed by that node")
        else:
            node_id = name
        self._driver.feed(NodeLeft(self._driver.now(), node_id, message.boot_id))
        self._node_names.release(node_id)
        return _signed(reporter, json_response({"status": "ok"}))

    def _reporter(self, request: Request, body: bytes) -> Reporter:
        scope = request.scope
        return self._membership.check(
            request.headers.get, scope["path"], scope["query_string"].decode("latin-1"), body, client_ip(request)
        )

    async def status(self, request: Request) -> Response:
        """Returns every node with its models, every queue, and the state of the trace store, or a 304.

        `?detail=summary|full`, by default a summary for more than 100 nodes; `?node=`: one node.
        """
        return self._status.answer(request)

    async def queue(self, _: Request) -> Response:
        """Lists running and waiting requests, oldest first, and counts them by node and model."""
        dispatcher = self._driver.dispatcher
        totals = views.queue_totals(dispatcher, self._counts, time.time())
        return json_response({**totals, **views.queue_view(dispatcher, self._driver.now())})

    async def fleet_limits(self, _: Request) -> Response:
        """Returns all configured limits by the name of their setting, and each node's limit of loaded models."""
        totals = views.limit_totals(self._driver.fleet, self._retries_max, time.time())
        return json_response({**self._limits, **totals})

    async def health(self, _: Request) -> Response:
        """Returns `ok` or `draining`, for process supervisors. For problems of the fleet see /dashboard/api/health."""
        return PlainTextResponse("draining\n" if self._driver.is_draining else "ok\n")


def _signed(reporter: Reporter, response: Response) -> Response:
    """Adds the headers that prove to a paired node that the answer comes from its coordinator."""
    response.headers.update(reporter.answer_headers(response.status_code, bytes(response.body)))
    return response
