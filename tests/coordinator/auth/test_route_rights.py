"""Tests every route with every kind of client: the rights in docs/routes.md are enforced."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.routes import ApiRoute, Rights
from herd.trust.keys import Scope
from herd.trust.rights import Right

FORWARDED = {"X-Forwarded-For": "203.0.113.9"}
DENIED = (401, 403)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as running:
        yield running


@pytest.fixture(scope="module")
def keys(fleet: Fleet) -> dict[Scope, str]:
    return {scope: _made(fleet, scope) for scope in Scope}


def _made(fleet: Fleet, scope: Scope) -> str:
    status, answer = ask(fleet, "POST", "/fleet/keys", {}, {"name": scope.value, "scopes": [scope.value]})
    assert status == 201
    return str(answer["key"])


def ask(
    fleet: Fleet, method: str, path: str, headers: dict[str, str], body: object = None
) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    raw = json.dumps({} if body is None else body).encode() if method != "GET" else None
    connection.request(method, path, raw, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    is_endless = (response.getheader("content-type") or "").startswith("text/event-stream")
    text = b"" if is_endless else response.read()
    response.close()
    connection.close()
    is_json = (response.getheader("content-type") or "").startswith("application/json")
    return response.status, json.loads(text) if is_json and text else {}


def routes_of(fleet: Fleet) -> list[tuple[str, str, Right]]:
    """Every method and path that is answered, and the right that it needs."""
    bridge = fleet.coordinator.bridge
    assert bridge is not None
    found = []
    for route in bridge._application.routes:  # type: ignore[attr-defined]
        assert isinstance(route, ApiRoute), f"{route} has no right"
        [method] = set(route.methods or ()) - {"HEAD"} or {"HEAD"}
        found.append((method, route.path.replace("{", "").replace("}", ""), route.right))
    api = fleet.coordinator.inference
    rights = Rights(api._dialects, ())
    found += [(route.method, path, rights(route.method, path)) for path, (_, route) in api._routes.items()]
    listings = [listing for dialect in api._dialects for listing in dialect.listings]
    found += [(method, path.replace("{", "").replace("}", ""), Right.LIST) for method, path in listings]
    assert len(found) > 40
    return found


def test_without_a_key_a_remote_client_reaches_only_open_routes(fleet: Fleet, keys: dict[Scope, str]) -> None:
    reports = ("/heartbeat", "/heartbeat/goodbye")
    for method, path, right in routes_of(fleet):
        status, _ = ask(fleet, method, path, FORWARDED)
        assert (status in DENIED) is (right not in (Right.OPEN, Right.PAGE)) or path in reports, (method, path, status)


def test_an_invalid_key_grants_nothing(fleet: Fleet, keys: dict[Scope, str]) -> None:
    wrong = keys[Scope.ADMIN][:-1] + ("a" if keys[Scope.ADMIN][-1] != "a" else "b")
    for method, path, right in routes_of(fleet):
        for headers in ({"Authorization": f"Bearer {wrong}"}, {"X-Api-Key": wrong}):
            status, _ = ask(fleet, method, path, headers)
            assert (status == 401) is (right is not Right.OPEN) or path.startswith("/heartbeat"), (method, path, status)


@pytest.mark.parametrize("scope", Scope)
def test_each_scope_opens_its_routes_and_no_others(fleet: Fleet, keys: dict[Scope, str], scope: Scope) -> None:
    for method, path, right in routes_of(fleet):
        if path.startswith(("/heartbeat", "/fleet/join")) or (scope is Scope.ADMIN and path == "/fleet/keys"):
            continue
        status, _ = ask(fleet, method, path, {**FORWARDED, "Authorization": f"Bearer {keys[scope]}"})
        opens = scope is Scope.ADMIN or right in (Right.OPEN, Right.PAGE, Right.LIST) or right.value == scope.value
        opens = opens or (scope, right) == (Scope.CHAT, Right.EMBED)
        assert (status not in DENIED) is opens, (scope, method, path, status)
