"""Tests draining of agents and coordinators with open streams; a second signal stops them at once."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from fakes.faults import Gate
from fakes.fleet import Fleet, Machine, report_of, running_fleet
from fakes.ollama.request_context import FakeSettings
from fakes.ollama.server import FakeOllama
from herd.agent.app import Agent, AgentSettings, Settings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.inventory import EngineSettings
from herd.agent_protocol import heartbeat_encode
from terminal import command, environment

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
STREAMS = 20


def ask(port: int, method: str, path: str, body: str | bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body; the part received before the connection was closed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        try:
            return response.status, response.read()
        except http.client.IncompleteRead as broken:
            return response.status, broken.partial
    finally:
        connection.close()


def is_whole(answer: tuple[int, bytes]) -> bool:
    return answer[0] == 200 and json.loads(answer[1].splitlines()[-1]).get("done") is True


def is_refused(port: int) -> bool:
    """503 with Retry-After, or a refused connection."""
    try:
        return ask(port, "POST", "/api/chat", CHAT)[0] == 503
    except (http.client.HTTPException, OSError):
        return True


# --- an agent ---


def test_a_stopping_agent_finishes_its_requests_and_accepts_no_new_ones(tmp_path: Path) -> None:
    async def go(fleet: Fleet) -> None:
        async with FakeOllama(["m"]) as engine:
            settings = Settings(
                agent=AgentSettings(node_id="alpha", data_dir=tmp_path),
                engines=EngineSettings("ollama", engine.url),
                link=LinkSettings(fleet.url, 0.1, 5.0),
            )
            agent = Agent(settings, Random(1), "boot-1")
            await agent.start()
            await agent.beat()
            gate = engine.fail(Gate(at="chunk", chunk=1))
            stream = asyncio.create_task(asyncio.to_thread(ask, fleet.port, "POST", "/api/chat", CHAT))
            await engine.until(lambda: gate.reached > 0, "the stream is at the gate")
            draining = asyncio.create_task(agent.drain())
            while not any(node["draining"] for node in await asyncio.to_thread(nodes_of, fleet)):
                assert not draining.done()
            late = await asyncio.to_thread(ask, fleet.port, "POST", "/api/chat", CHAT, X_Request_Timeout="0.1")
            assert late[0] == 504 and b"draining" in late[1]
            gate.release()
            assert is_whole(await stream)
            await draining
            await agent.stop()
            assert await asyncio.to_thread(nodes_of, fleet) == []

    with running_fleet({}) as fleet:
        asyncio.run(go(fleet))


def nodes_of(fleet: Fleet) -> list[dict[str, object]]:
    nodes: list[dict[str, object]] = fleet.get("/fleet/status")["nodes"]
    return nodes


def test_an_idle_agent_stops_at_once(tmp_path: Path) -> None:
    async def go(fleet: Fleet) -> None:
        settings = Settings(
            agent=AgentSettings(node_id="alpha", data_dir=tmp_path), link=LinkSettings(fleet.url, 0.1, 5.0)
        )
        agent = Agent(settings, Random(1), "boot-1")
        await agent.start()
        await agent.beat()
        await agent.drain()
        await agent.stop()

    with running_fleet({}) as fleet:
        asyncio.run(go(fleet))


# --- a coordinator ---


@contextmanager
def coordinator(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A separate process, and its port."""
    arguments = command("serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(folder))
    env = environment({"FLEET_OPEN": "true", "FLEET_DRAIN_SECONDS": "60"})
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    try:
        yield process, int(wait_for_line(process, "listening").partition("url=http://127.0.0.1:")[2].partition(",")[0])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for_line(process: subprocess.Popen[str], word: str) -> str:
    """Waits for the line with this word."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return line
    raise AssertionError(f"the process ended without printing {word!r}: {lines}")


@contextmanager
def streams(engine: FakeOllama, port: int) -> Iterator[tuple[Gate, list[asyncio.Future[tuple[int, bytes]]]]]:
    """Clients whose answers have begun and wait at a gate."""
    ask(port, "POST", "/heartbeat", heartbeat_encode.encode(report_of("alpha", engine, Machine()), time.time()))
    gate = engine.fail(Gate(at="chunk", chunk=1))
    with ThreadPoolExecutor(STREAMS) as clients:
        answers = [clients.submit(ask, port, "POST", "/api/chat", CHAT) for _ in range(STREAMS)]
        while gate.reached < STREAMS:
            assert not any(answer.done() for answer in answers)
        yield gate, answers  # type: ignore[misc]
        gate.release()


@pytest.mark.skipif(sys.platform == "win32", reason="signals as of POSIX")
def test_a_draining_coordinator_finishes_its_streams_and_sends_retry_after(tmp_path: Path) -> None:
    with FakeOllama(["m"], FakeSettings(num_parallel=STREAMS)) as engine, coordinator(tmp_path) as (process, port):
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        kept.request("GET", "/api/tags")
        kept.getresponse().read()
        with streams(engine, port) as (gate, answers):
            process.send_signal(signal.SIGTERM)
            wait_for_line(process, "draining")
            assert is_refused(port)
            gate.release()
            assert all(is_whole(answer.result()) for answer in answers)
        kept.close()
        assert process.wait(30) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals as of POSIX")
def test_a_second_signal_stops_it_at_once_and_no_cut_stream_looks_complete(tmp_path: Path) -> None:
    engine = FakeOllama(["m"], FakeSettings(num_parallel=STREAMS))
    with engine, coordinator(tmp_path) as (process, port), streams(engine, port) as (_, answers):
        process.send_signal(signal.SIGTERM)
        wait_for_line(process, "draining")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not any(is_whole(answer.result()) for answer in answers)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as of POSIX")
def statuses_in(folder: Path) -> list[tuple[str, int]]:
    """The final rows of all requests, counted by their status."""
    (path,) = folder.rglob("latency.db")
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT status, COUNT(*) FROM request_traces WHERE status <> 'retried' GROUP BY status ORDER BY status"
        ).fetchall()


def test_a_killed_coordinator_leaves_no_client_hanging_and_serves_again_after_a_restart(tmp_path: Path) -> None:
    with FakeOllama(["m"], FakeSettings(num_parallel=STREAMS)) as engine:
        with coordinator(tmp_path) as (process, port), streams(engine, port) as (_, answers):
            process.kill()
            assert not any(answer.exception() is None and is_whole(answer.result()) for answer in answers)
        engine.heal()
        with coordinator(tmp_path) as (_, port):
            ask(port, "POST", "/heartbeat", heartbeat_encode.encode(report_of("alpha", engine, Machine()), time.time()))
            assert is_whole(ask(port, "POST", "/api/chat", CHAT))
    assert ("coordinator_lost", STREAMS) in statuses_in(tmp_path)
