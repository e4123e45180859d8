"""Tests every route with generated requests of every kind of caller.

The cases have a fixed seed. No caller gets further than the right of the route, no request causes an internal error,
and every refusal has a message.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.core.lifecycle.holding import HoldingSettings
from herd.trust.keys import Scope
from herd.trust.rights import Right

try:
    import schemathesis
except ImportError:
    if os.environ.get("CI", "").lower() == "true":
        raise
    pytest.skip(
        "schemathesis is not installed: THE ROUTES ARE NOT TESTED WITH GENERATED REQUESTS (python3 dev.py test)",
        allow_module_level=True,
    )

SEED = 7
CASES_PER_ROUTE = 10
FROM_AFAR = {"X-Forwarded-For": "203.0.113.9"}
DENIED = (401, 403)
UNABLE = (501, 502, 503, 504, 507)
"""Statuses of an operation that is impossible now or not supported; any other status from 500 is a bug."""
WITH_OWN_PROOF = ("/heartbeat", "/fleet/join", "/login")
"""Open routes that check a proof of their own, which these cases lack."""


@dataclass(frozen=True)
class Caller:
    """A kind of caller: its headers, and the scope of its key, if it has one."""

    name: str
    headers: dict[str, str]
    scope: Scope | None = None

    def may(self, right: Right) -> bool:
        if right in (Right.OPEN, Right.PAGE) or self.scope is Scope.ADMIN:
            return True
        is_embed = (self.scope, right) == (Scope.CHAT, Right.EMBED)
        return self.scope is not None and (right is Right.LIST or right.value == self.scope.value or is_embed)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    no_waiting = replace(settings_for_tests(), holding=HoldingSettings(wait_max_s=0.0, start_grace_s=0.0))
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}, settings=no_waiting) as running:
        yield running


@pytest.fixture(scope="module")
def callers(fleet: Fleet) -> list[Caller]:
    found = [
        Caller("no key", FROM_AFAR),
        Caller("a wrong key", {**FROM_AFAR, "Authorization": "Bearer herd_aaaaaaaa_" + "b" * 32}),
    ]
    for scope in Scope:
        status, answer = request(
            fleet,
            "POST",
            "/fleet/keys",
            {"Content-Type": "application/json"},
            json.dumps({"name": scope.value, "scopes": [scope.value]}),
        )
        assert status == 201
        found.append(Caller(scope.value, {**FROM_AFAR, "X-Api-Key": json.loads(answer)["key"]}, scope))
    return found


def request(fleet: Fleet, method: str, url: str, headers: dict[str, str], body: str | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    try:
        connection.request(method, url, None if body is None else body.encode("utf-8", "replace"), headers)
        response = connection.getresponse()
        is_endless = (response.getheader("content-type") or "").startswith("text/event-stream")
        body = b"" if is_endless else response.read()
        response.close()
        return response.status, body
    finally:
        connection.close()


def operations_of(fleet: Fleet) -> list[Any]:
    """The operations of the OpenAPI document."""
    made = schemathesis.openapi.from_dict(fleet.get("/openapi.json"))
    return [found.ok() for found in made.get_all_operations()]


def send(fleet: Fleet, case: Any, caller: Caller) -> tuple[int, bytes]:
    query = {name: str(value) for name, value in (case.query or {}).items()} if isinstance(case.query, dict) else {}
    url = case.formatted_path + ("?" + urlencode(query, errors="replace") if query else "")
    has_body = case.method.upper() not in ("GET", "HEAD")
    body = json.dumps(case.body, default=str) if has_body else None
    return request(fleet, case.method.upper(), url, {"Content-Type": "application/json", **caller.headers}, body)


def check(fleet: Fleet, case: Any, right: Right, caller: Caller) -> None:
    status, answer = send(fleet, case, caller)
    context = (caller.name, case.method, case.formatted_path, case.body, status, answer[:300])
    assert status < 500 or status in UNABLE, context
    # The answer to HEAD has no body that says it.
    is_no_path = status == 400 and (b"the path" in answer or case.method.upper() == "HEAD")
    if right is Right.PAGE and caller.name == "a wrong key":
        assert status in DENIED or is_no_path, context
    elif not case.path.startswith(WITH_OWN_PROOF) and not is_no_path:
        assert (status in DENIED) is not caller.may(right), context
    if (
        status >= 400
        and case.path not in ("/", "/login")
        and case.method.upper() != "HEAD"
        and b"404 page" not in answer
    ):
        assert json.loads(answer)["error"], context


def each_case(operation: Any, kind: Any, cases: int, run_case: Callable[[Any], None]) -> bool:
    """Calls `run_case` with this many cases, the same in every run. False if the operation has no parameters."""

    @seed(SEED)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=kind))
    def tried(case: Any) -> None:
        run_case(case)

    try:
        tried()
    except Unsatisfiable:
        return False
    return True


@pytest.mark.parametrize("kind", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_no_caller_gets_further_than_the_right_of_a_route(fleet: Fleet, callers: list[Caller], kind: Any) -> None:
    operations = operations_of(fleet)
    assert len(operations) > 40
    tried = 0
    for operation in operations:
        right = Right(operation.definition.raw["x-right"])

        def by_all_callers(case: Any, right: Right = right) -> None:
            for caller in callers:
                check(fleet, case, right, caller)

        tried += each_case(operation, kind, CASES_PER_ROUTE, by_all_callers)
    assert tried > 15


def test_a_caller_without_the_right_changes_nothing(fleet: Fleet, callers: list[Caller]) -> None:
    def by_other_callers(case: Any) -> None:
        for caller in callers:
            if caller.scope is not Scope.ADMIN:
                assert send(fleet, case, caller)[0] in DENIED

    before = [fleet.get(path) for path in ("/fleet/keys", "/fleet/nodes", "/fleet/audit")]
    for operation in operations_of(fleet):
        if operation.definition.raw["x-right"] == Right.ADMIN.value:
            each_case(operation, schemathesis.GenerationMode.POSITIVE, 2, by_other_callers)
    assert [fleet.get(path) for path in ("/fleet/keys", "/fleet/nodes", "/fleet/audit")] == before
