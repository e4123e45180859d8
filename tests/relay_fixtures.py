"""Provides a coordinator without its HTTP server: real core and relays, a client in memory, scripted nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import herd.engines
from builders import a_model_info, a_report, a_world, an_engine
from herd.coordinator.api.views import queue_positions
from herd.coordinator.driver import Driver
from herd.coordinator.proxy.relay import Relay
from herd.coordinator.proxy.relay_dependencies import RelayDependencies, RelaySettings
from herd.coordinator.proxy.wait_comments import WaitComments, WaitCommentSettings
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.coordinator.upstream.pool import Pool
from herd.core.lifecycle.dispatcher import SWEEP_EVERY_S
from herd.core.lifecycle.retries import RetrySettings
from herd.core.state.commands import Record
from herd.core.state.events import HeartbeatReceived, Ticked
from herd.core.state.fleet import Report, canonical
from herd.core.state.request import Outcome, Request, RequestId
from herd.core.state.served_paths import ServedPath
from herd.dialects import Dialect, Timestamp
from herd.dialects.ollama import DIALECT
from herd.discover import discover
from herd.engines import Engine, EngineRequest
from herd.engines.ollama import ENGINE
from herd.http1.contract import Header
from herd.protocols.conversation import Conversation
from http_fixtures import LOOPS

TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1795338783)
TURN = [{"role": "user", "content": "Say hi."}]


class TranslatedEngine(type(ENGINE)):  # type: ignore[misc]
    """An engine that serves no client API itself, so that every request is translated."""

    kind = "other"

    def served_path(self, path: str, version: str = "") -> ServedPath | None:
        return None

    def older_requests(self, conversation: Conversation) -> tuple[EngineRequest, ...]:
        """None: it has every path that a translation asks, although it serves none of them to clients."""
        return ()


class OlderEngine(TranslatedEngine):
    """The same, in a version that has none of the newer paths that a translation asks either."""

    kind = "older"

    def older_requests(self, conversation: Conversation) -> tuple[EngineRequest, ...]:
        return ENGINE.older_requests(conversation)


class Client:
    """An exchange in memory: records the answer and simulates the behavior of a client."""

    def __init__(self, body: bytes, headers: Sequence[Header] = ()) -> None:
        self.method, self.path, self.query, self.body = "POST", "/api/chat", b"", body
        self.headers: Sequence[Header] = headers
        self.client_ip, self.received_at = "192.0.2.9", 0.0
        self.on_disconnect: Callable[[], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self.admission: object | None = None
        self.facts: object | None = None
        self.status = 0
        self.answer_headers: dict[str, str] = {}
        self.length: int | None = None
        self.pieces: list[bytes] = []
        self.last: bytes | None = None
        """The argument of `cut`, if it was called."""
        self.is_whole = False
        self.begun = asyncio.Event()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def answer(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.answer)

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        self.begin(status, headers, len(body))
        self.pieces.append(body)
        self._end(is_whole=True)

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> None:
        assert not self.status and not self.over.done()
        self.status, self.length = status, length
        self.answer_headers = {name.decode().lower(): value.decode("ascii") for name, value in headers}

    def write(self, data: bytes) -> None:
        assert self.status and not self.over.done()
        self.pieces.append(data)
        self.begun.set()

    def end(self) -> None:
        assert self.status
        self._end(is_whole=True)

    def cut(self, last: bytes = b"") -> None:
        if self.over.done():
            return
        assert self.status
        self.last = last
        self._end(is_whole=False)

    def leave(self) -> None:
        """Disconnects as the HTTP server reports it: once, and not after the end of the answer."""
        if not self.over.done():
            self._end(is_whole=False)
            if self.on_disconnect is not None:
                self.on_disconnect()

    def _end(self, is_whole: bool) -> None:
        self.is_whole = is_whole
        self.over.set_result(None)


@dataclass(kw_only=True)
class RelaySetup:
    driver: Driver
    pool: Pool
    dependencies: RelayDependencies
    records: list[Record]
    relays: int = 0
    clients: list[Client] = field(default_factory=list)
    beats: dict[str, Report] = field(default_factory=dict)
    """Each node's last heartbeat report."""
    expected_alarms: int = 0
    """How many exceptions and violations the test causes on purpose."""

    @staticmethod
    def request_id(number: int) -> RequestId:
        return RequestId(f"r{number}")

    def ask(
        self,
        path: str = "/api/chat",
        headers: Sequence[Header] = (),
        dialect: Dialect = DIALECT,
        raw: bytes = b"",
        **body: Any,
    ) -> Client:
        """Admits a request; by default a streamed chat."""
        body.setdefault("model", "m")
        if path == "/api/chat":
            body.setdefault("messages", TURN)
        route = next(route for route in dialect.routes if route.path == path)
        ask = dialect.parse(route, raw or json.dumps(body).encode())
        self.relays += 1
        client = Client(ask.body, headers)
        request = Request(
            id=RequestId(f"r{self.relays}"),
            model=canonical(ask.model),
            kind=route.kind,
            fallbacks=tuple(map(canonical, ask.fallback_models)),
            stream=ask.stream,
            prompt_tokens=ask.prompt_tokens,
            needs=ask.needs,
            wants_thinking=ask.wants_thinking,
            has_format=ask.has_format,
            path=route.path,
            special_fields=ask.special_fields,
        )
        self.clients.append(client)
        self.driver.admit(request, Relay(client, ask, dialect, request.id, self.dependencies))
        return client

    async def answered(self, path: str = "/api/chat", **body: Any) -> Client:
        client = self.ask(path, **body)
        await client.over
        return client

    def add_node(self, name: str, url: str, **more: Any) -> None:
        """A heartbeat of a node with the model `m` at that address."""
        kind, slots, loaded = more.pop("kind", "ollama"), more.pop("slots", 1), more.pop("loaded", False)
        model_info = a_model_info(more.pop("model", "m"), loaded=loaded, engine=an_engine(slots, kind, url))
        self.beats[name] = a_report(name, [model_info], **more)
        self.driver.feed(HeartbeatReceived(self.driver.now(), self.beats[name]))

    def time_passes(self, limit_s: float = 100.0) -> None:
        """Advances the time in small steps, with heartbeats, until an attempt has ended.

        A leap would look like a process that slept.
        """
        began_at, before = self.driver.now(), len(self.records)
        for step in range(1, int(limit_s / SWEEP_EVERY_S) + 1):
            if len(self.records) > before:
                return
            for report in self.beats.values():
                self.driver.feed(HeartbeatReceived(began_at + step * SWEEP_EVERY_S, report))
            self.driver.feed(Ticked(began_at + step * SWEEP_EVERY_S))

    @property
    def outcomes(self) -> list[Outcome]:
        return [record.outcome for record in self.records]


@asynccontextmanager
async def a_relay_setup(
    nodes: Mapping[str, str] | None = None,
    relay: RelaySettings | None = None,
    upstream: UpstreamSettings | None = None,
    kind: str = "ollama",
    retries: RetrySettings | None = None,
    slots: int = 1,
) -> AsyncIterator[RelaySetup]:
    """`nodes` are names and addresses; the first is preferred. Checks at the end that nothing is left over."""
    loop = asyncio.get_running_loop()
    dispatcher = a_world(started_at=loop.time(), retries=retries).dispatcher
    records: list[Record] = []
    driver = Driver(dispatcher, records.append, loop)
    pool = Pool(upstream or UpstreamSettings(), loop)
    engines: dict[str, Engine] = {engine.kind: engine for engine in discover(herd.engines, Engine, "ENGINE")}  # type: ignore[type-abstract]
    engines["other"] = TranslatedEngine()
    engines["older"] = OlderEngine()
    wait_comments = WaitComments(
        WaitCommentSettings(), loop, lambda: queue_positions(dispatcher, loop.time()), driver.contain
    )
    dependencies = RelayDependencies(
        driver=driver,
        pool=pool,
        engines=engines,
        timestamp=lambda: TIMESTAMP,
        settings=relay or RelaySettings(),
        wait_comments=wait_comments,
        rng=Random(7),
    )
    setup = RelaySetup(driver=driver, pool=pool, dependencies=dependencies, records=records)
    for index, (name, url) in enumerate((nodes or {}).items()):
        setup.add_node(name, url, kind=kind, loaded=index == 0, slots=slots)
    yield setup
    driver.stop()
    assert not wait_comments and wait_comments._timer is None, "no request waits, so no timer runs"
    driver.audit()
    assert driver.alarms == setup.expected_alarms, "an exception reached the loop, or an invariant was violated"
    assert not driver.runs and not dispatcher.live_requests and dispatcher.problems() == []
    assert all(connection._request is None for connection in pool.connections)
    assert all(client.on_disconnect is None and client.on_writable is None for client in setup.clients)
    ended = [record.request.id for record in records if record.outcome is not Outcome.RETRIED]
    assert sorted(ended) == sorted({f"r{n + 1}" for n in range(setup.relays)}), "one terminal row for each request"
    pool.close()


def run(test: Callable[[], Awaitable[None]], limit_s: float = 30.0) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(limit_s):
            await test()

    with asyncio.Runner(loop_factory=LOOPS[-1]) as runner:
        runner.run(guarded())
