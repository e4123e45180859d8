"""Sends single requests to a coordinator with given access settings, to test who may do what."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.access_control import AccessSettings

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}
"""Makes a local request count as one from an unknown address."""
EVIL = {"Origin": "https://evil.example"}


def ask(fleet: Fleet, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    raw = None if body is None else json.dumps(body).encode()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, raw, {"Content-Type": "application/json", **sent})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    answer = json.loads(text) if text and "json" in (response.getheader("content-type") or "") else text
    return response.status, answer, {name.lower(): value for name, value in response.getheaders()}


def status(fleet: Fleet, method: str, path: str, body: object = None, **headers: str) -> int:
    return ask(fleet, method, path, body, **headers)[0]


def a_key(fleet: Fleet, **wanted: object) -> dict[str, str]:
    made, answer, _ = ask(fleet, "POST", "/fleet/keys", {"name": "app", **wanted})
    assert made == 201, answer
    return {"Authorization": f"Bearer {answer['key']}"}


@contextmanager
def a_fleet(engine: FakeOllama, **access: object) -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), access=AccessSettings(**access))  # type: ignore[arg-type]
    with running_fleet({"alpha": engine}, settings=settings) as fleet:
        yield fleet
