"""Calls of the routes of nodes, for tests of several folders."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any

from fakes.fleet import Fleet

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": False}
NODES = "/fleet/nodes"


def call(fleet: Fleet, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)) as connection:
        sent = None if body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, sent, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), {k.lower(): v for k, v in response.getheaders()}


def post(fleet: Fleet, action: str, name: str = "alpha", **more: Any) -> Any:
    status, answer, _ = call(fleet, "POST", f"{NODES}/{action}", {"name": name, **more})
    assert status == 200, answer
    return answer


def line_of(fleet: Fleet, name: str) -> dict[str, Any]:
    return next(line for line in fleet.get(NODES)["nodes"] if line["node_id"] == name)
