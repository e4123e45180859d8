"""Tests FLEET_NODE_TLS: encrypted connections to one certificate, accepted from the coordinator only."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import uvloop

from fakes.fleet import running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama
from herd.agent import forwarder_certificate
from herd.agent.app import Agent, AgentSettings, Settings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.engine_forwarder import EngineForwarder, ForwarderSettings
from herd.agent.forwarder_certificate import TlsIdentity
from herd.agent.forwarders import EngineForwarders
from herd.agent.inventory import EngineSettings
from herd.coordinator.auth.membership import MembershipSettings
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.coordinator.upstream.pool import Pool
from herd.core.state.request import FailureKind
from herd.http1.contract import Header
from herd.trust.signing import forwarder_proof

KEY = b"k" * 32
PATIENCE_S = 30.0
both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[..., object]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Sink:
    """Stores what the pool passes on, piece by piece."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.status = 0
        self.error: tuple[FailureKind, str] | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: list[Header]) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        self.pieces.put_nowait(data)

    def on_end(self) -> None:
        self.over.set_result(None)

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self.error = kind, detail
        self.over.set_result(None)

    def body(self) -> bytes:
        return b"".join(self.pieces.get_nowait() for _ in range(self.pieces.qsize()))


@asynccontextmanager
async def a_forwarder(
    script: Script, folder: Path, proof: str | None = None, sent_proof: str | None = None
) -> AsyncIterator[tuple[EngineForwarder, Pool, str]]:
    """A forwarder with TLS in front of an engine that runs `script`, a pool with its proof, and the forwarder's URL."""
    identity = forwarder_certificate.create_identity(
        folder, lambda pin: forwarder_proof(KEY, pin) if proof is None else proof
    )
    engine = await asyncio.start_server(script, "127.0.0.1", 0)
    forwarder = EngineForwarder(
        f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}",
        ForwarderSettings(connect_timeout_s=PATIENCE_S),
        identity,
    )
    port = await forwarder.listen("127.0.0.1")
    pool = Pool(
        UpstreamSettings(),
        asyncio.get_running_loop(),
        lambda url: forwarder_proof(KEY, url.partition("#")[2]) if sent_proof is None else sent_proof,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield forwarder, pool, f"https://127.0.0.1:{port}#{identity.pin}"
    finally:
        pool.close()
        forwarder.close()
        engine.close()
        async with asyncio.timeout(PATIENCE_S):
            while forwarder.connections:
                await asyncio.sleep(0)


def send(pool: Pool, url: str, body: bytes = b"{}") -> Sink:
    sink = Sink()
    pool.send(url, b"POST", b"/api/chat", b"", body, sink)
    return sink


async def request_in(reader: asyncio.StreamReader) -> bytes:
    """The body of one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


@both_loops
def test_a_stream_passes_the_forwarder_piece_by_piece(run: Run, tmp_path: Path) -> None:
    """The engine sends the next piece only after the previous one has arrived: no piece is held back."""
    arrived = asyncio.Semaphore(0)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_in(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            writer.write(b"5\r\n%05d\r\n" % number)
            await arrived.acquire()
        writer.write(b"0\r\n\r\n")
        await reader.read()
        writer.close()

    async def go() -> None:
        async with a_forwarder(script, tmp_path) as (_, pool, url):
            sink = send(pool, url)
            for number in range(20):
                assert await sink.pieces.get() == b"%05d" % number
                arrived.release()
            await sink.over
            assert sink.error is None and sink.status == 200

    run(go())


@both_loops
def test_large_bodies_and_many_requests_share_one_connection(run: Run, tmp_path: Path) -> None:
    seen: list[int] = []
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while True:
                body = await request_in(reader)
                seen.append(len(body))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    async def go() -> None:
        async with a_forwarder(script, tmp_path) as (forwarder, pool, url):
            for size in (10, 3_000_000, 20, 1):
                body = bytes(range(256)) * (size // 256 + 1)
                sink = send(pool, url, body)
                await sink.over
                assert sink.error is None and sink.body() == body
            assert forwarder.refused == 0
        assert len(seen) == 4 and connections == 1

    run(go())


@both_loops
def test_an_answer_that_ends_with_its_connection_ends(run: Run, tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_in(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        writer.close()

    async def go() -> None:
        async with a_forwarder(script, tmp_path) as (_, pool, url):
            sink = send(pool, url)
            await sink.over
            assert sink.error is None and sink.body() == b"hello"

    run(go())


@both_loops
def test_a_host_with_another_certificate_gets_no_request(run: Run, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(1))
        writer.close()

    async def go() -> None:
        async with a_forwarder(script, tmp_path) as (_, pool, url):
            sink = send(pool, url.partition("#")[0] + "#" + "0" * 64)
            await sink.over
            assert sink.error is not None and sink.error[0] is FailureKind.CONNECT
            assert "certificate" in sink.error[1]
        assert b"".join(seen) == b""

    run(go())


@both_loops
@pytest.mark.parametrize("sent_proof", ["0" * 64, "GET / HTTP/1.1\r\nHost: a\r\n\r\n" + "x" * 64])
def test_a_client_other_than_the_coordinator_reaches_no_engine(run: Run, tmp_path: Path, sent_proof: str) -> None:
    calls = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    async def go() -> None:
        async with a_forwarder(script, tmp_path, sent_proof=sent_proof) as (forwarder, pool, url):
            sink = send(pool, url)
            await sink.over
            assert sink.error is not None and forwarder.refused == 1
        assert calls == 0

    run(go())


@both_loops
def test_an_unknown_forwarder_gets_no_request_and_a_forwarder_without_a_fleet_accepts_none(
    run: Run, tmp_path: Path
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def go() -> None:
        async with a_forwarder(script, tmp_path, sent_proof="") as (_, pool, url):
            sink = send(pool, url)
            await sink.over
            assert sink.error is not None
        async with a_forwarder(script, tmp_path, proof="") as (forwarder, pool, url):
            sink = send(pool, url)
            await sink.over
            assert sink.error is not None and forwarder.refused == 1

    run(go())


@both_loops
def test_a_client_that_sends_nothing_is_disconnected(run: Run, tmp_path: Path) -> None:
    async def go() -> None:
        identity = forwarder_certificate.create_identity(tmp_path, lambda pin: forwarder_proof(KEY, pin))
        forwarder = EngineForwarder("http://127.0.0.1:1", ForwarderSettings(connect_timeout_s=0.05), identity)
        port = await forwarder.listen("127.0.0.1")
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=unverified())
            writer.write(b"half a proof")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
            while forwarder.connections:
                await asyncio.sleep(0)
        assert forwarder.refused == 1
        forwarder.close()

    run(go())


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_each_start_creates_a_new_certificate_and_leaves_no_key_on_disk(tmp_path: Path) -> None:
    identities: list[TlsIdentity] = [
        forwarder_certificate.create_identity(tmp_path / "data", lambda _: "") for _ in range(2)
    ]
    assert identities[0].pin != identities[1].pin and all(len(identity.pin) == 64 for identity in identities)
    assert list((tmp_path / "data").iterdir()) == []


def test_without_a_fleet_no_forwarder_is_announced_and_that_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forwarders = EngineForwarders(
        ForwarderSettings(tls=True), lambda: forwarder_certificate.create_identity(tmp_path, lambda _: "")
    )
    for _ in range(3):
        assert asyncio.run(forwarders.urls(["http://127.0.0.1:1"], "http://127.0.0.1:2")) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_agent_and_its_coordinator_use_the_forwarder(tmp_path: Path) -> None:
    """Paired through the shared data folder; the chat is streamed, and the forwarder does not answer plain HTTP."""
    settings = replace(settings_for_tests(), membership=MembershipSettings(open=False))
    with (
        FakeOllama([FakeModel(name="m", answer="one two three")]) as engine,
        running_fleet({}, settings=settings, data_dir=tmp_path) as fleet,
    ):
        lines = asyncio.run(streamed_through_an_agent(tmp_path, fleet.url, fleet.port, engine.url))
        fleet.settle()
    assert "".join(json.loads(line)["message"]["content"] for line in lines) == "one two three"
    assert json.loads(lines[-1])["done"]


async def streamed_through_an_agent(folder: Path, coordinator: str, port: int, engine: str) -> list[bytes]:
    settings = Settings(
        agent=AgentSettings(node_id="alpha", data_dir=folder),
        engines=EngineSettings("ollama", engine, slots=1),
        link=LinkSettings(coordinator, 0.1, 10.0),
        forwarder=ForwarderSettings(tls=True),
    )
    agent = Agent(settings, Random(1), "boot-1")
    await agent.start()
    try:
        for _ in range(3):
            await agent.beat()
        state = await asyncio.to_thread(asked, port, "GET", "/fleet/status", None)
        [endpoint] = json.loads(b"".join(state))["nodes"][0]["engines"]
        assert endpoint["url"].startswith("https://127.0.0.1:") and "#" in endpoint["url"]
        forwarder_port = int(endpoint["url"].partition("#")[0].rpartition(":")[2])
        with pytest.raises((OSError, http.client.HTTPException)):
            await asyncio.to_thread(asked, forwarder_port, "GET", "/api/tags", None)
        chat = {"model": "m", "messages": [{"role": "user", "content": "count"}]}
        return await asyncio.to_thread(asked, port, "POST", "/api/chat", chat)
    finally:
        await agent.stop()


def asked(port: int, method: str, path: str, body: object) -> list[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, json.dumps(body) if body else None)
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, text
        return text.splitlines()
    finally:
        connection.close()
