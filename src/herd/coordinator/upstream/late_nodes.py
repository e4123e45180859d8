"""Asks the engines of a node whose heartbeat is late whether they still answer, while requests run there.

A node that is frozen, cut off or asleep sends nothing, and neither do the connections to it. Missing heartbeats alone
prove little within seconds, because a busy agent is late too. A cheap request to the engine decides, on the path of the
clients' requests: any answer shows that it works. Without an answer the engine counts as frozen until one comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from herd.coordinator.driver import Driver
from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.core.state.events import EngineSilent
from herd.core.state.fleet import EngineEndpoint, Node, NodeId
from herd.engines import Engine

log = logging.getLogger("herd.late_nodes")

EVERY_S = 0.5
SILENT_AFTER_S = 3.0
"""An engine counts as frozen this long after the first request that it did not answer: its server answers such a
request within milliseconds while it loads, reads prompts and generates; with all cores busy, within a second."""
PROBE_MAX_S = 30.0
OPEN_MAX = 4
LAG_MIN_S = 0.5
"""A step that comes later than planned by more than this shows that the coordinator itself was delayed."""


@dataclass(slots=True, eq=False)
class _Asked:
    """One engine of a late node. Times are seconds on the loop's clock."""

    node_id: NodeId
    endpoint: EngineEndpoint
    unanswered_since: float | None = None
    is_reported: bool = False
    probes: set[asyncio.Task[None]] = field(default_factory=set)


class LateNodes:
    """Call `start`, and `stop` at the end."""

    def __init__(
        self,
        driver: Driver,
        client: EngineClient,
        engines: Mapping[str, Engine],
        loop: asyncio.AbstractEventLoop,
        late_after_s: float,
    ) -> None:
        self._driver = driver
        self._client = client
        self._engines = engines
        self._loop = loop
        self._late_after_s = late_after_s
        self._asked: dict[str, _Asked] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for asked in self._asked.values():
            _cancel(asked)
        self._asked.clear()

    def _arm(self) -> None:
        due_at = self._driver.now() + EVERY_S
        self._timer = self._loop.call_at(due_at, self._on_timer, due_at)

    def _on_timer(self, due_at: float) -> None:
        now = self._driver.now()
        self.step(now, now - due_at)
        self._arm()

    def step(self, now: float, lag_s: float) -> None:
        """Sends the requests that are due and reports engines that answer none. `lag_s`: how late this call is."""
        late = self._late_endpoints(now)
        for url in [url for url in self._asked if url not in late]:
            # Its heartbeat is back, which tells more, or no request runs there any more.
            _cancel(self._asked.pop(url))
        for url, (node_id, endpoint) in late.items():
            asked = self._asked.setdefault(url, _Asked(node_id, endpoint))
            if asked.unanswered_since is not None and lag_s > LAG_MIN_S:
                asked.unanswered_since += lag_s
            if len(asked.probes) < OPEN_MAX:
                self._ask(asked, now)
            since = asked.unanswered_since
            if not asked.is_reported and since is not None and now - since >= SILENT_AFTER_S:
                asked.is_reported = True
                log.warning("a node is late and its engine does not answer", extra={"node": node_id, "url": url})
                self._driver.feed(EngineSilent(now, node_id, url, now - since))

    def _late_endpoints(self, now: float) -> dict[str, tuple[NodeId, EngineEndpoint]]:
        """Maps URLs to the engines of these nodes on which requests run, or ran when the engines fell silent."""
        found = {
            url: (asked.node_id, asked.endpoint)
            for url, asked in self._asked.items()
            if asked.is_reported and self._is_late(self._driver.fleet.node(asked.node_id), now)
        }
        for live_request in self._driver.live_requests.values():
            attempt = live_request.attempt
            node = self._driver.fleet.node(attempt.node_id) if attempt is not None and live_request.is_running else None
            if attempt is None or node is None or not self._is_late(node, now):
                continue
            model_info = node.model_info(attempt.model)
            engine = self._engines.get(model_info.engine.kind) if model_info is not None else None
            if model_info is not None and engine is not None and engine.answers_while_busy:
                found[model_info.engine.url] = (node.id, model_info.engine)
        return found

    def _is_late(self, node: Node | None, now: float) -> bool:
        return node is not None and now - node.last_heartbeat_at >= self._late_after_s

    def _ask(self, asked: _Asked, now: float) -> None:
        if asked.unanswered_since is None:
            asked.unanswered_since = now
        probe = self._loop.create_task(self._probe(asked))
        asked.probes.add(probe)
        probe.add_done_callback(asked.probes.discard)

    async def _probe(self, asked: _Asked) -> None:
        request = self._engines[asked.endpoint.kind].sign_of_life()
        try:
            async with asyncio.timeout(PROBE_MAX_S):
                await self._client.send(asked.endpoint.url, request)
        except (TimeoutError, EngineRequestFailed):
            return  # A failed connection shows nothing either: its packets may be lost.
        asked.unanswered_since = None
        if asked.is_reported:
            asked.is_reported = False
            self._driver.feed(EngineSilent(self._driver.now(), asked.node_id, asked.endpoint.url, 0.0))


def _cancel(asked: _Asked) -> None:
    for probe in asked.probes:
        probe.cancel()
