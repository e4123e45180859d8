"""Tests live messages over a real WebSocket and server-sent events: snapshots, deltas without gaps, and limits."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from fakes.websocket import Client, Closed, client_frame
from herd.coordinator.api.live import QUEUED_MAX, LiveSettings
from herd.dashboard.live import FleetMessage, JobsMessage, RequestsMessage

CHAT = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": False, "metadata": {"tags": ["aider"]}}
).encode()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), live=LiveSettings(clients_max=4))
    with FakeOllama(["m"]) as one, running_fleet({"alpha": one}, settings=settings) as running:
        yield running


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    made = Client(fleet.port)
    assert made.status == 101
    yield made
    made.close()
    gone(fleet)


def gone(fleet: Fleet) -> None:
    """Returns when the coordinator has noticed that no client is connected."""
    for _ in range(1000):
        if not fleet.on_loop(lambda: fleet.coordinator.live._sockets):
            return
    raise AssertionError("a client is still connected")


def test_each_topic_begins_with_a_snapshot_of_its_shape(client: Client) -> None:
    client.send_json({"sub": ["fleet", "requests", "jobs"]})
    received = {message["topic"]: message for message in (client.receive(), client.receive(), client.receive())}
    fleet = msgspec.convert(received["fleet"], FleetMessage)
    assert [card.node_id for card in fleet.data.nodes] == ["alpha"] and fleet.data.pulse.level == "good"
    assert msgspec.convert(received["requests"], RequestsMessage).data.live == ()
    assert msgspec.convert(received["jobs"], JobsMessage).data.jobs == ()
    assert {message["type"] for message in received.values()} == {"snapshot"}


def test_a_request_is_reported_from_its_arrival_to_its_end_without_a_gap(fleet: Fleet, client: Client) -> None:
    client.send_json({"sub": ["requests"]})
    seq = client.receive_topic("requests", "snapshot")["seq"]
    fleet.ask("POST", "/api/chat", CHAT)
    moved: list[dict[str, Any]] = []
    while not moved or moved[-1]["what"] != "ended":
        message = client.receive_topic("requests", "delta")
        seq += 1
        assert message["seq"] == seq
        moved += message["data"]["moved"]
    assert [one["what"] for one in moved] in (["arrived", "routed", "first", "ended"], ["arrived", "routed", "ended"])
    assert moved[1]["node_id"] == "alpha" and {one["app"] for one in moved} == {"aider"}
    assert moved[-1]["status"] == "completed" and moved[-1]["completion_tokens"] > 0


def test_deltas_of_the_fleet_have_only_what_changed(fleet: Fleet, client: Client) -> None:
    client.send_json({"sub": ["fleet"]})
    seq = client.receive_topic("fleet", "snapshot")["seq"]
    with FakeOllama(["n"]) as two:
        fleet.join("beta", two)
        seen: set[str] = set()
        while "beta" not in seen:
            message = client.receive_topic("fleet", "delta")
            seq += 1
            assert message["seq"] == seq
            seen |= {card["node_id"] for card in message["data"]["nodes"]}
        fleet.nodes.pop("beta")
        fleet.ask("POST", "/heartbeat/goodbye", json.dumps({"node_id": "beta", "boot_id": "boot-1"}).encode())
        while "beta" not in client.receive_topic("fleet", "delta")["data"]["gone"]:
            pass
    assert client.receive_topic("fleet", "delta")["data"]["gone"] == []


def test_a_client_without_topics_receives_no_messages_and_no_timer_runs(fleet: Fleet, client: Client) -> None:
    client.send_json({"sub": ["fleet", "requests", "jobs"]})
    client.receive_topic("jobs", "snapshot")
    client.send_json({"sub": []})
    client.send(client_frame(0x9, b"still there?"))
    while client.frame() != (0xA, b"still there?"):
        pass
    feed = fleet.coordinator.live._feed
    assert fleet.on_loop(lambda: (feed._tick_timer, fleet.coordinator.driver.observers)) == (None, ())


@pytest.mark.parametrize("text", ["nonsense", '{"sub": ["secrets"]}', '{"sub": "fleet"}', "[]"])
def test_an_invalid_message_gets_an_error_and_the_connection_stays_open(client: Client, text: str) -> None:
    client.send(client_frame(0x1, text.encode()))
    assert client.receive()["type"] == "error"
    client.send_json({"sub": ["jobs"]})
    assert client.receive()["type"] == "snapshot"


def test_a_protocol_violation_is_closed_with_its_code(client: Client) -> None:
    client.send(client_frame(0x2, b"binary"))
    with pytest.raises(Closed) as closed:
        client.receive()
    assert closed.value.code == 1003


def test_a_close_frame_is_answered(client: Client) -> None:
    client.send(client_frame(0x8, b"\x03\xe8"))
    with pytest.raises(Closed) as closed:
        client.receive()
    assert closed.value.code == 1000


def test_a_message_in_the_same_packet_as_the_handshake_is_processed(fleet: Fleet) -> None:
    raw = socket.create_connection(("127.0.0.1", fleet.port), timeout=30)
    head = (
        f"GET /dashboard/api/live HTTP/1.1\r\nHost: 127.0.0.1:{fleet.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    raw.sendall(head.encode() + client_frame(0x1, b'{"sub": ["jobs"]}'))
    data = b""
    while b'"snapshot"' not in data:
        data += raw.recv(65536)
    assert data.startswith(b"HTTP/1.1 101 ") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in data
    raw.close()
    gone(fleet)


def test_a_connection_can_be_upgraded_after_an_ordinary_request(fleet: Fleet) -> None:
    raw = socket.create_connection(("127.0.0.1", fleet.port), timeout=30)
    head = f"Host: 127.0.0.1:{fleet.port}\r\n"
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    first = f"GET /health HTTP/1.1\r\n{head}\r\n"
    raw.sendall(
        f"{first}GET /dashboard/api/live HTTP/1.1\r\n{head}{upgrade}\r\n".encode()
        + client_frame(0x1, b'{"sub": ["jobs"]}')
    )
    data = b""
    while b'"snapshot"' not in data:
        data += raw.recv(65536)
    assert data.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 101 " in data
    raw.close()
    gone(fleet)


def test_a_client_over_the_limit_is_refused(fleet: Fleet) -> None:
    clients = [Client(fleet.port) for _ in range(5)]
    assert [one.status for one in clients] == [101, 101, 101, 101, 503] and b"FLEET_LIVE_CLIENTS_MAX" in clients[
        -1
    ]._bytes
    for one in clients:
        one.close()
    gone(fleet)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"X-Forwarded-For": "203.0.113.9"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Version": "8"}, 400),
    ],
)
def test_handshakes_without_permission_or_with_invalid_headers_are_refused(
    fleet: Fleet, headers: dict[str, str], status: int
) -> None:
    client = Client(fleet.port, headers=headers)
    assert client.status == status
    client.close()


def test_only_this_path_accepts_a_websocket_and_nothing_else(fleet: Fleet) -> None:
    client = Client(fleet.port, "/api/tags")
    assert client.status != 101
    client.close()
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", "/dashboard/api/v1/live")
    response = connection.getresponse()
    assert response.status == 426 and b"curl" in response.read()
    connection.close()


def test_a_slow_reader_gets_snapshots_instead_of_the_missed_messages(fleet: Fleet, client: Client) -> None:
    client.send_json({"sub": ["requests"]})
    seq = client.receive_topic("requests", "snapshot")["seq"]

    def stall_and_send() -> int:
        [one] = fleet.coordinator.live._sockets
        one.writable(False)
        feed = fleet.coordinator.live._feed
        for _ in range(QUEUED_MAX + 5):
            feed._seq["requests"] += 1
            one.send(feed.snapshot("requests"))
        queued = len(one._queued)
        one.writable(True)
        return queued

    assert fleet.on_loop(stall_and_send) == 0
    message = client.receive()
    assert (message["type"], message["seq"]) == ("snapshot", seq + QUEUED_MAX + 5)


def test_server_sent_events_carry_the_same_messages(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", "/dashboard/events?sub=fleet,jobs")
    response = connection.getresponse()
    assert (response.status, response.getheader("content-type")) == (200, "text/event-stream; charset=utf-8")
    lines = [response.readline() for _ in range(6)]
    assert (lines[0], lines[3]) == (b"event: fleet\n", b"event: jobs\n") and lines[2] == lines[5] == b"\n"
    assert msgspec.json.decode(lines[1].removeprefix(b"data: "), type=FleetMessage).type == "snapshot"
    connection.close()
    bad = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    bad.request("GET", "/dashboard/events?sub=secrets")
    assert bad.getresponse().status == 400
    bad.close()


def test_every_client_gets_a_close_frame_at_shutdown() -> None:
    with running_fleet({}) as short:
        client = Client(short.port)
        client.send_json({"sub": ["fleet"]})
        client.receive_topic("fleet", "snapshot")
    with pytest.raises(Closed) as closed:
        while True:
            client.receive()
    assert closed.value.code in (1001, None)
    client.close()
