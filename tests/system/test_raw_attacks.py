"""Raw bytes against a coordinator process: no hidden request reaches an engine, and other clients are served."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from builders import a_model_info, a_report
from fakes.scripted_engine import ScriptedEngine
from herd.agent_protocol import heartbeat_encode
from system.test_drain import ask, coordinator

CHAT_PATH = "/v1/chat/completions"
HIDDEN = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hidden"}]}).encode()
OPEN = json.dumps({"model": "m", "messages": [{"role": "user", "content": "open"}]}).encode()
INNER = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (CHAT_PATH.encode(), len(HIDDEN), HIDDEN)
HEADS = 1000
GROWTH_MAX_BYTES = 100 << 20


def outer(*lines: bytes, body: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in (b"POST %b HTTP/1.1" % CHAT_PATH.encode(), b"Host: x", *lines))
    return head + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = {
    "the length ends before the hidden request": outer(
        b"Content-Length: %d" % (len(INNER) + 5), CHUNKED, body=b"0\r\n\r\n" + INNER
    ),
    "the chunks end before the hidden request": outer(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + INNER),
    "two lengths": outer(b"Content-Length: 0", b"Content-Length: %d" % len(INNER), body=INNER),
    "a length with a sign": outer(b"Content-Length: +0", body=INNER),
    "a length in a list": outer(b"Content-Length: 0, %d" % len(INNER), body=INNER),
    "a space before the colon": outer(b"Content-Length: 0", b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + INNER),
    "a tab in the coding": outer(b"Content-Length: 4", b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n" + INNER),
    "an unknown coding": outer(b"Transfer-Encoding: cow, chunked", body=b"0\r\n\r\n" + INNER),
    "a folded header": outer(b"X-A: b\r\n Content-Length: 0", body=INNER),
    "a bare line feed hides a length": outer(b"X-A: b\nContent-Length: 0", body=INNER),
    "a bare carriage return hides a length": outer(b"X-A: b\rContent-Length: 0", body=INNER),
    "a chunk size in two bases": outer(CHUNKED, body=b"0x0\r\n\r\n" + INNER),
    "a chunk size with a sign": outer(CHUNKED, body=b"-0\r\n\r\n" + INNER),
    "a chunk size over 64 bits": outer(CHUNKED, body=b"10000000000000000\r\n\r\n" + INNER),
    "a chunk that ends with a line feed only": outer(CHUNKED, body=b"0\n\n" + INNER),
    "a trailer with a length": outer(CHUNKED, body=b"0\r\nContent-Length: 9\n\r\n" + INNER),
}
"""Each ends, for some server or proxy, before the hidden request, which is then a request of its own."""


@dataclass
class Attacked:
    port: int
    pid: int
    engine: ScriptedEngine

    def send(self, data: bytes) -> bytes:
        """The whole answer; a connection that is reset counts as closed."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=30)) as client:
            client.sendall(data)
            got = b""
            try:
                client.shutdown(socket.SHUT_WR)
                while data := client.recv(1 << 16):
                    got += data
            except (ConnectionError, OSError):
                return got
            return got

    def answers(self) -> int:
        return ask(self.port, "POST", CHAT_PATH, OPEN, Content_Type="application/json")[0]

    @property
    def asked(self) -> list[str]:
        return [body["messages"][-1]["content"] for _, body in self.engine.requests]

    @property
    def memory_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with _running(tmp_path_factory.mktemp("attacked")) as running:
        yield running


@contextmanager
def _running(folder: Path) -> Iterator[Attacked]:
    with ScriptedEngine() as engine, coordinator(folder) as (process, port):
        endpoint = engine.endpoint()
        report = a_report("alpha", [replace(a_model_info("m"), engine=endpoint)], engines=(endpoint,))
        ask(port, "POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))
        running = Attacked(port, process.pid, engine)
        assert running.answers() == 200
        yield running
        assert process.poll() is None
        assert running.answers() == 200


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_hidden_request_reaches_no_engine(attacked: Attacked, name: str) -> None:
    answer = attacked.send(SMUGGLED[name])
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 400 ")
    assert "hidden" not in attacked.asked


def test_what_a_pipelined_request_looks_like_is_only_the_body_of_the_first(attacked: Attacked) -> None:
    before = len(attacked.asked)
    attacked.send(outer(b"Content-Length: %d" % len(INNER), body=INNER))
    assert len(attacked.asked) == before


@pytest.mark.parametrize(
    "flood",
    [
        b"".join(b"X-%d: a\r\n" % number for number in range(50_000)),
        b"X-A: " + b"a" * (8 << 20) + b"\r\n",
        b"X-A" * (1 << 20) + b": a\r\n",
        b"Cookie: a=b\r\n" * 100_000,
    ],
    ids=["many headers", "a long value", "a long name", "one header many times"],
)
def test_a_flood_of_headers_is_refused_early_and_costs_no_memory(attacked: Attacked, flood: bytes) -> None:
    before = attacked.memory_bytes
    for target in (b"GET /api/tags HTTP/1.1\r\nHost: x\r\n", b"POST /api/chat HTTP/1.1\r\nHost: x\r\n"):
        answer = attacked.send(target + flood + b"\r\n")
        assert answer == b"" or answer.split(b" ")[1] in (b"400", b"414", b"431")
    assert attacked.memory_bytes - before < GROWTH_MAX_BYTES
    assert attacked.answers() == 200


def test_a_thousand_unfinished_heads_leave_room_for_clients(attacked: Attacked) -> None:
    before = attacked.memory_bytes
    with ExitStack() as stack:
        for number in range(HEADS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", attacked.port), timeout=30))
            client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nX-%d: " % number + b"a" * 4000)
        assert attacked.answers() == 200
        assert attacked.memory_bytes - before < GROWTH_MAX_BYTES
