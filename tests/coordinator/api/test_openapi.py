"""Tests that the OpenAPI document has exactly the routes with their rights."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

import herd.dialects
from fakes.fleet import Fleet, running_fleet
from herd.coordinator.api.openapi import document
from herd.coordinator.auth.routes import ApiRoute
from herd.dialects import Dialect
from herd.discover import discover
from herd.trust.rights import KEYLESS, Right


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet({}) as running:
        yield running


@pytest.fixture(scope="module")
def spec(fleet: Fleet) -> dict[str, Any]:
    return fleet.get("/openapi.json")


def operations(spec: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in spec["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_has_exactly_the_routes_with_their_rights(fleet: Fleet, spec: dict[str, Any]) -> None:
    bridge = fleet.coordinator.bridge
    assert bridge is not None
    routes = bridge._application.routes  # type: ignore[attr-defined]
    answered = {(route.method, route.path.replace(":path}", "}")): route.right for route in routes}
    api = fleet.coordinator.inference
    for dialect in api._dialects:
        answered.update(
            {(route.method, route.path): Right.LIST if route.kind.value == "info" else None for route in dialect.routes}
        )
        answered.update(dict.fromkeys(dialect.listings, Right.LIST))
    described = operations(spec)
    assert set(described) == set(answered)
    for route, right in answered.items():
        assert right is None or described[route]["x-right"] == right.value, route


def test_the_document_says_which_routes_need_a_key(spec: dict[str, Any]) -> None:
    schemes = set(spec["components"]["securitySchemes"])
    for route, operation in operations(spec).items():
        right, security = Right(operation["x-right"]), operation["security"]
        assert (security == []) is (right is Right.OPEN), route
        assert ({} in security) is (right in (*KEYLESS, Right.PAGE)), route
        assert {name for requirement in security for name in requirement} in (set(), schemes), route


def test_every_operation_has_a_unique_id_and_a_summary_of_whole_sentences(spec: dict[str, Any]) -> None:
    all_of_them = list(operations(spec).values())
    assert len({operation["operationId"] for operation in all_of_them}) == len(all_of_them)
    assert all(operation["summary"].endswith(".") for operation in all_of_them), [
        o["operationId"] for o in all_of_them if not o["summary"].endswith(".")
    ]


def test_every_reference_leads_to_a_schema(spec: dict[str, Any]) -> None:
    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (inner for name, inner in value.items() if name == "$ref")
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(spec))
    assert found
    assert all(
        reference.removeprefix("#/components/schemas/") in spec["components"]["schemas"] for reference in found
    ), found


def test_the_document_needs_a_key_from_another_network(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", "/openapi.json", headers={"X-Forwarded-For": "203.0.113.9"})
    response = connection.getresponse()
    assert response.status == 401 and b"paths" not in response.read()
    connection.close()


def test_a_route_without_a_body_has_no_request_body() -> None:
    """Summary, query parameters and body schema come from the route."""

    async def changed(_: object) -> None:
        """What it does. And more."""

    routes = [ApiRoute("/fleet/x/{name}", changed, "POST", Right.ADMIN, query=("days",))]
    made: Any = document(discover(herd.dialects, Dialect, "DIALECT"), routes, "1")  # type: ignore[type-abstract]
    operation = made["paths"]["/fleet/x/{name}"]["post"]
    assert json.loads(json.dumps(operation["parameters"]))[1]["name"] == "days"
    assert "requestBody" not in operation and operation["x-right"] == "admin"


@pytest.mark.parametrize("number", ["inf", "nan", "1e400", "-1e300", str(2**63), "x" * 500])
def test_an_invalid_number_is_refused_with_a_message(fleet: Fleet, number: str) -> None:
    for path in (
        f"/dashboard/api/traces?limit={number}",
        f"/dashboard/api/traces?since={number}",
        f"/dashboard/api/usage?days={number}",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 400 and b"must be a number" in response.read(), path
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/heartbeat",
        "/heartbeat/goodbye",
        "/fleet/join",
        "/fleet/keys",
        "/fleet/nodes/remove",
        "/api/chat",
        "/v1/messages",
    ],
)
@pytest.mark.parametrize(
    "bomb",
    [b"[" * 60_000, b'{"node_id":"a","name":"a","model":"m","x":' + b"[" * 60_000, b"\xff", b'"\\ud800"'],
    ids=range(4),
)
def test_a_deeply_nested_body_is_a_bad_request(fleet: Fleet, path: str, bomb: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", path, bomb, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status in (400, 413, 422) and response.read()
    connection.close()
