"""Tests access from another host of the network: without a key it can chat and list models, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.access_control import AccessSettings
from herd.coordinator.auth.routes import ApiRoute
from herd.trust.rights import KEYLESS, Right

CAN = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip") is not None
pytestmark = pytest.mark.skipif(
    not CAN, reason="needs Linux, root and `ip`: WHAT A STRANGER ON THE NETWORK CAN DO IS NOT TRIED"
)

COORDINATOR, LAN_CLIENT = "10.213.77.1", "10.213.77.2"
NAMESPACE = f"herd-{os.getpid()}"
VETH = f"hv{os.getpid() % 100000}"
ASK = """
import http.client, json, sys
for method, path, body in json.loads(sys.argv[2]):
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[3]), timeout=20)
    connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    print(response.status, len(response.read()), response.getheader("content-type", "-").split(";")[0])
    connection.close()
"""
UNKNOWN_PATHS = (
    "/dashboard/nothing",
    "/nothing",
    "/v1/nothing",
    "/login/nothing",
    "/health/nothing",
    "/.env",
    "/static/login.html",
)
OPEN = {
    ("GET", "/health"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/heartbeat"),
    ("POST", "/heartbeat/goodbye"),
    ("POST", "/fleet/join"),
}
"""The routes without credentials: for supervisors, for browsers, and those with their own signatures."""
NOT_FOR_STRANGERS = frozenset(Right) - {Right.OPEN, Right.PAGE} - KEYLESS
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """Another host in its own network namespace."""
    ip("netns", "add", NAMESPACE)
    try:
        ip(*f"link add {VETH} type veth peer name {VETH}g netns {NAMESPACE}".split())
        ip("addr", "add", f"{COORDINATOR}/30", "dev", VETH)
        ip("link", "set", VETH, "up")
        ip("-n", NAMESPACE, "addr", "add", f"{LAN_CLIENT}/30", "dev", f"{VETH}g")
        ip("-n", NAMESPACE, "link", "set", f"{VETH}g", "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)


def statuses_from_lan(fleet: Fleet, asked: list[tuple[str, str, object]]) -> list[int]:
    """The status of each request from the other host."""
    done = subprocess.run(
        ["ip", "netns", "exec", NAMESPACE, sys.executable, "-c", ASK, COORDINATOR, json.dumps(asked), str(fleet.port)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [int(line.split()[0]) for line in done.stdout.splitlines()]


def every_route(fleet: Fleet) -> list[tuple[str, str, object, Right]]:
    bridge = fleet.coordinator.bridge
    assert bridge is not None
    found = []
    for route in bridge._application.routes:  # type: ignore[attr-defined]
        assert isinstance(route, ApiRoute)
        [method] = set(route.methods or ()) - {"HEAD"} or {"HEAD"}
        found.append(
            (method, route.path.replace("{", "").replace("}", ""), {} if method == "POST" else None, route.right)
        )
    return found


@pytest.mark.parametrize("requires_key", [False, True])
def test_a_lan_client_without_a_key_can_chat_and_list_models_only(network: None, requires_key: bool) -> None:
    settings = replace(settings_for_tests(), access=AccessSettings(require_key=requires_key))
    settings = replace(settings, membership=replace(settings.membership, open=False))
    with FakeOllama(["m"]) as engine, running_fleet({}, settings=settings, host="0.0.0.0") as fleet:
        fleet.coordinator.membership.settings = replace(settings.membership, open=True)
        fleet.nodes["alpha"] = engine
        fleet.beat()
        fleet.coordinator.membership.settings = settings.membership
        routes = every_route(fleet)
        closed = statuses_from_lan(
            fleet, [(method, path, body) for method, path, body, right in routes if right in NOT_FOR_STRANGERS]
        )
        assert closed and set(closed) == {401}
        keyless = statuses_from_lan(
            fleet, [(method, path, body) for method, path, body, right in routes if right in KEYLESS]
        )
        assert keyless and (401 in keyless) is requires_key and (not requires_key or set(keyless) == {401})
        asked = [
            ("POST", "/api/chat", CHAT),
            ("POST", "/v1/chat/completions", CHAT),
            ("GET", "/api/tags", None),
            ("GET", "/v1/models", None),
        ]
        assert set(statuses_from_lan(fleet, asked)) == ({401} if requires_key else {200})
        assert statuses_from_lan(fleet, [("GET", "/health", None)]) == [200]
        assert set(
            statuses_from_lan(
                fleet, [("POST", "/heartbeat", {"node_id": "x"}), ("POST", "/heartbeat/goodbye", {"node_id": "alpha"})]
            )
        ) == {401}
        assert set(statuses_from_lan(fleet, [("GET", path, None) for path in UNKNOWN_PATHS])) == (
            {401} if requires_key else {404}
        )
        pages = statuses_from_lan(
            fleet, [(method, path, body) for method, path, body, right in routes if right is Right.PAGE]
        )
        assert not pages or (set(pages) == {401}) is requires_key
        assert statuses_from_lan(fleet, [("GET", "/login", None), ("POST", "/login", {})]) == [200, 400]
        assert {(method, path) for method, path, _, right in routes if right is Right.OPEN} == OPEN
        assert {node.id for node in fleet.coordinator.driver.fleet} == {"alpha"}
