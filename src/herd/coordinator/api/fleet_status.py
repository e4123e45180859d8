"""Builds the answer of `/fleet/status`, whose cost in a large fleet follows what has changed and what is requested.

A summary has every key of the full answer; only each node's list of models is reduced to those in memory. A client that
sends back the answer's tag gets a 304 as long as nothing but times has changed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from enum import Enum

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd import __version__
from herd.bounded import BoundedDict
from herd.coordinator.api import views
from herd.coordinator.api.responses import json_response
from herd.coordinator.driver import Driver
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId
from herd.errors import BadRequest, NotFound

FULL_NODES_MAX = 100
"""Largest fleet whose status has all models of every node if the client does not ask for another detail."""
NODES_CACHED_MAX = 4096
"""Nodes whose list of models is encoded once, until a heartbeat changes it."""


class Detail(Enum):
    SUMMARY = "summary"
    FULL = "full"


class FleetStatus:
    def __init__(
        self,
        driver: Driver,
        store: TraceStore,
        is_open: Callable[[], bool],
        capture: Callable[[], dict[str, object]],
        lag_ms: Callable[[], float],
    ) -> None:
        self._driver = driver
        self._store = store
        self._is_open = is_open
        self._capture = capture
        self._lag_ms = lag_ms
        self._process = secrets.token_hex(4)
        self._models = BoundedDict[NodeId, tuple[Mapping[ModelName, ModelInfo], msgspec.Raw]](NODES_CACHED_MAX)

    def answer(self, request: Request) -> Response:
        """The status in the asked detail, or of one node. Raises `BadRequest` and `NotFound`."""
        fleet, node_id = self._driver.fleet, request.query_params.get("node")
        detail = self._detail(request.query_params.get("detail"), len(fleet.nodes))
        if node_id is not None:
            node = fleet.node(NodeId(node_id))
            if node is None:
                raise NotFound(f"no node is named {node_id}")
            nodes, detail = [node], Detail.FULL
        else:
            nodes = sorted(fleet, key=lambda node: node.id)
        state: dict[str, object] = {
            "alarms": self._driver.alarms,
            "store": msgspec.to_builtins(self._store.state),
            "is_open": self._is_open(),
            "capture": self._capture(),
        }
        tag = self._tag(nodes, detail, node_id, state)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        dispatcher, now = self._driver.dispatcher, self._driver.now()
        answer: dict[str, object] = {
            "fleet": views.totals(dispatcher),
            "nodes": [views.node_view(node, dispatcher, now, self._models_of(node, detail)) for node in nodes],
            "queues": views.queues(dispatcher),
            "timestamp": time.time(),
            "version": __version__,
            "detail": detail.value,
            **state,
            "loop_lag_ms": self._lag_ms(),
        }
        return json_response(answer, headers=headers)

    @staticmethod
    def _detail(asked: str | None, nodes: int) -> Detail:
        if asked is None:
            return Detail.FULL if nodes <= FULL_NODES_MAX else Detail.SUMMARY
        try:
            return Detail(asked)
        except ValueError:
            raise BadRequest("detail must be summary or full") from None

    def _models_of(self, node: Node, detail: Detail) -> object:
        models = node.report.models
        if detail is Detail.SUMMARY:
            return [views.model_view(model_info) for _, model_info in sorted(models.items()) if model_info.loaded]
        known = self._models.get(node.id)
        if known is None or known[0] is not models:
            encoded = msgspec.json.encode([views.model_view(model_info) for _, model_info in sorted(models.items())])
            known = self._models[node.id] = (models, msgspec.Raw(encoded))
        return known[1]

    def _tag(self, nodes: list[Node], detail: Detail, node_id: str | None, state: Mapping[str, object]) -> str:
        """A weak tag: equal for answers that differ only in their times and in measurements of this process."""
        dispatcher, now = self._driver.dispatcher, self._driver.now()
        seen = (
            (dispatcher.fleet.version, dispatcher.waiting.queues.changes.position, detail, node_id),
            (len(dispatcher.live_requests), len(dispatcher.waiting), repr(state)),
            tuple((node.liveness, node.unreachable_until <= now, tuple(node.loading_until)) for node in nodes),
        )
        return f'W/"{self._process}-{hash(seen) & (1 << 64) - 1:x}"'
