"""Tests thousands of requests of one tenant: a few wait, the rest get Retry-After, and another tenant is served."""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings
from herd.http1.http_settings import HttpSettings

resource = pytest.importorskip(
    "resource", reason="the limit of open files and the peak memory are available on Unix only"
)

CLIENTS = 5000
PLACES = 64
BODY_BYTES = 8 << 10
FILES_NEEDED = 2 * CLIENTS + 500


def asks(tenant: str, padding_bytes: int = 0) -> bytes:
    turn = [{"role": "user", "content": "Say hi."}]
    body = json.dumps(
        {"model": "m", "stream": False, "messages": turn, "options": {"stop": ["x" * padding_bytes]}}
    ).encode()
    return b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Herd-Tags: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        tenant.encode(),
        len(body),
        body,
    )


def connected(fleet: Fleet, request: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", fleet.port), timeout=60)
    client.sendall(request)
    return client


def answer(client: socket.socket) -> tuple[int, str]:
    """Status and head, from a single read; every answer here is small."""
    head = client.recv(1 << 16).decode("latin-1")
    return int(head.split(" ")[1]), head


def peak_bytes() -> int:
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def enough_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_NEEDED:
        pytest.skip(f"this machine lets a process have {hard} open files; {FILES_NEEDED} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES_NEEDED), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flood(fleet: Fleet, waiting: int) -> tuple[list[socket.socket], Counter[int]]:
    """Starts clients until `waiting` of them are queued, and returns those; the others read their answer."""
    statuses: Counter[int] = Counter()
    with selectors.DefaultSelector() as silent:
        for _ in range(CLIENTS):
            silent.register(connected(fleet, asks("flood", BODY_BYTES)), selectors.EVENT_READ)
        while len(silent.get_map()) > waiting:
            for key, _ in silent.select():
                client = key.fileobj
                assert isinstance(client, socket.socket)
                silent.unregister(client)
                status, head = answer(client)
                statuses[status] += 1
                assert (found := re.search(r"Retry-After: (\d+)", head)) is not None and 1 <= int(found[1]) <= 90
                client.close()
        held = [key.fileobj for key in silent.get_map().values() if isinstance(key.fileobj, socket.socket)]
    return held, statuses


def test_a_flood_uses_only_its_share_of_connections() -> None:
    spare = HttpSettings().connections_reserved_nodes + 100
    http = HttpSettings(connections_max=CLIENTS + spare, connections_loopback_max=CLIENTS + 100)
    settings = settings_for_tests()
    settings = replace(settings, http=http, holding=replace(settings.holding, held_max=PLACES))
    node = FakeOllama([FakeModel(name="m", answer_tokens=2)], FakeSettings(num_parallel=1))
    with enough_files(), node, running_fleet({"alpha": node}, settings=settings) as fleet:
        gate = Gate(at="request")
        node.fail(gate)
        first = connected(fleet, asks("flood"))
        node.wait(lambda: gate.reached, "the first request at the node")
        held, statuses = flood(fleet, 3 * PLACES // 4)
        assert statuses == {429: CLIENTS - len(held)}
        peak = peak_bytes()
        _, statuses = flood(fleet, 0)
        assert statuses == {429: CLIENTS}
        assert peak_bytes() < 1.1 * peak, "a second flood needs no more memory than the first"
        quiet = connected(fleet, asks("quiet"))
        core = fleet.coordinator.driver.dispatcher
        while fleet.on_loop(lambda: len(core.waiting)) <= len(held):
            pass
        rows = [one for one in fleet.get("/fleet/queue")["requests"] if one["tenant"] == "app quiet"]
        assert [one["position"] for one in rows] == [2], "one of the flood, then its turn"
        gate.release()
        assert answer(quiet)[0] == 200
        assert Counter(answer(client)[0] for client in (first, *held)) == {200: 1 + len(held)}
        for client in (first, quiet, *held):
            client.close()
        fleet.settle()
        assert len(node.inference) == len(held) + 2
        assert fleet.on_loop(lambda: (len(core.live_requests), len(core.waiting), core.problems())) == (0, 0, [])
