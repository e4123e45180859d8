"""Tests client disconnects at any time, in any dialect: the node stops at once and one trace row records it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings

MODEL = FakeModel(name="m", answer_tokens=12)
TURN = [{"role": "user", "content": "Tell me of the herd."}]
BEFORE = 3
"""Pieces that a client has received when it disconnects in the middle of the answer."""


@dataclass(frozen=True)
class Asking:
    """A request, and whether its answer is streamed."""

    path: str
    body: dict[str, object]

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is not False and "input" not in self.body


ASKINGS = [
    Asking("/api/chat", {"messages": TURN}),
    Asking("/api/chat", {"messages": TURN, "stream": False}),
    Asking("/api/generate", {"prompt": "Tell me."}),
    Asking("/api/generate", {"prompt": "Tell me.", "stream": False}),
    Asking("/api/embed", {"input": "Tell me."}),
    Asking("/v1/chat/completions", {"messages": TURN, "stream": True}),
    Asking("/v1/chat/completions", {"messages": TURN, "stream": False}),
    Asking("/v1/completions", {"prompt": "Tell me.", "stream": True}),
    Asking("/v1/embeddings", {"input": "Tell me."}),
    Asking("/v1/messages", {"messages": TURN, "max_tokens": 50, "stream": True}),
    Asking("/v1/messages", {"messages": TURN, "max_tokens": 50, "stream": False}),
]
NAMES = [f"{one.path} {'streamed' if one.streams else 'complete'}" for one in ASKINGS]


class Client:
    """A raw socket that has sent a request."""

    def __init__(self, fleet: Fleet, asking: Asking) -> None:
        body = json.dumps({"model": "m", **asking.body}).encode()
        self._socket = socket.create_connection(("127.0.0.1", fleet.port), timeout=20)
        self._socket.sendall(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" % asking.path.encode()
        )
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    def receive_some(self) -> bytes:
        return self._socket.recv(1 << 16)

    def half_close(self) -> None:
        """Ends the sending direction only, as simple clients do."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive_all(self) -> bytes:
        data = b""
        while piece := self.receive_some():
            data += piece
        self._socket.close()
        return data

    def disconnect(self, how: str) -> None:
        if how == "reset":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@contextmanager
def a_node() -> Iterator[tuple[Fleet, FakeOllama]]:
    """One node with one slot, its model in memory."""
    with FakeOllama([MODEL], FakeSettings(num_parallel=1)) as node, running_fleet({"alpha": node}) as fleet:
        yield fleet, node


def row(fleet: Fleet) -> dict[str, object]:
    """The newest trace row, after all requests have ended."""
    fleet.settle()
    fleet.coordinator.store.flush()
    newest: dict[str, object] = fleet.get("/dashboard/api/traces?limit=1")["traces"][0]
    return newest


def is_free_again(fleet: Fleet) -> None:
    """No state of the disconnected client is left, and the slot serves the next request."""
    core = fleet.coordinator.driver.dispatcher
    assert fleet.on_loop(
        lambda: (len(core.live_requests), len(core.waiting), list(core.waiting.queues), core.problems())
    ) == (0, 0, [], [])
    assert fleet.ask("POST", "/api/chat", json.dumps({"model": "m", "messages": TURN, "stream": False}).encode())[
        "done"
    ]


@pytest.mark.parametrize("asking", ASKINGS, ids=NAMES)
def test_a_disconnect_while_the_request_is_queued(asking: Asking) -> None:
    with a_node() as (fleet, node):
        gate = Gate(at="request")
        node.fail(gate)
        first = Client(fleet, ASKINGS[0])
        node.wait(lambda: gate.reached, "the first request at the node")
        core = fleet.coordinator.driver.dispatcher
        second = Client(fleet, asking)
        while not fleet.on_loop(lambda: len(core.waiting)):
            pass
        second.disconnect("close")
        while fleet.on_loop(lambda: len(core.waiting)):
            pass
        gate.release()
        first.receive_some()
        fleet.settle()
        first.disconnect("close")
        assert len(node.inference) == 1, "the request of the disconnected client is never sent"
        fleet.coordinator.store.flush()
        statuses = [one["status"] for one in fleet.get("/dashboard/api/traces")["traces"]]
        assert sorted(statuses) == ["client_cancelled", "completed"]
        is_free_again(fleet)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("asking", ASKINGS, ids=NAMES)
def test_a_disconnect_before_the_first_token(asking: Asking, how: str) -> None:
    with a_node() as (fleet, node):
        gate = Gate(at="request", times=1)
        node.fail(gate)
        client = Client(fleet, asking)
        node.wait(lambda: gate.reached, "the request at the node")
        client.disconnect(how)
        node.wait(lambda: node.aborted, "the node to be cancelled")
        assert row(fleet)["status"] == "client_cancelled"
        is_free_again(fleet)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("asking", [one for one in ASKINGS if one.streams], ids=[n for n in NAMES if "streamed" in n])
def test_a_disconnect_in_the_middle_of_the_answer(asking: Asking, how: str) -> None:
    with a_node() as (fleet, node):
        gate = Gate(at="chunk", chunk=BEFORE, times=1)
        node.fail(gate)
        client = Client(fleet, asking)
        client.receive_some()
        node.wait(lambda: gate.reached, "the middle of the answer")
        client.disconnect(how)
        node.wait(lambda: node.aborted, "the node to be cancelled")
        trace_row = row(fleet)
        assert trace_row["status"] == "client_cancelled"
        tokens = trace_row["completion_tokens"]
        assert isinstance(tokens, int) and 1 <= tokens <= BEFORE + 1, "the forwarded tokens are counted"
        is_free_again(fleet)


def ends(fleet: Fleet) -> int:
    """The number of connections whose end of sending the coordinator has noticed."""
    return fleet.on_loop(
        lambda: sum(getattr(one, "_has_eof", False) for one in fleet.coordinator.server.clients.connections)
    )


@pytest.mark.parametrize(
    "asking", [one for one in ASKINGS if "input" not in one.body], ids=[n for n in NAMES if "embed" not in n]
)
def test_a_half_closed_client_is_answered(asking: Asking) -> None:
    with a_node() as (fleet, node):
        gate = Gate(at="request", times=1)
        node.fail(gate)
        client = Client(fleet, asking)
        client.half_close()
        node.wait(lambda: gate.reached, "the request at the node")
        while not ends(fleet):
            pass
        gate.release()
        answer = client.receive_all().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert row(fleet)["status"] == "completed"
        is_free_again(fleet)


@pytest.mark.parametrize("asking", [one for one in ASKINGS if one.streams], ids=[n for n in NAMES if "streamed" in n])
def test_a_client_that_half_closes_in_the_middle_of_the_answer_gets_the_rest(asking: Asking) -> None:
    with a_node() as (fleet, node):
        gate = Gate(at="chunk", chunk=BEFORE, times=1)
        node.fail(gate)
        client = Client(fleet, asking)
        node.wait(lambda: gate.reached, "the middle of the answer")
        client.half_close()
        while not ends(fleet):
            pass
        gate.release()
        assert client.receive_all().endswith(b"0\r\n\r\n")
        assert row(fleet)["status"] == "completed"
        is_free_again(fleet)
