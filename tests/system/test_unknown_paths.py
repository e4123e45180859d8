"""Tests that unknown paths are answered in the format of the client API."""

from __future__ import annotations

import http.client
import json

from fakes.fleet import running_fleet
from fakes.ollama.server import FakeOllama


def test_unknown_paths_get_the_answers_of_ollama_and_openai() -> None:
    with running_fleet({}) as fleet:
        connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=10)
        connection.request("GET", "/api/nope")
        response = connection.getresponse()
        assert response.status == 404 and response.read().startswith(b"404 page not found")
        connection.request("GET", "/v1/nope")
        response = connection.getresponse()
        assert response.status == 404
        assert json.loads(response.read())["error"]["type"] == "not_found_error"
        connection.close()


def test_a_path_with_dots_is_not_passed_on() -> None:
    """Such paths would avoid the rights of the path that an engine makes of them."""
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as fleet:
        for path in ("/api/../api/create", "/api/chat/../create", "/api/%2e%2e/api/create", "/v1/../api/push"):
            connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=10)
            connection.request(
                "POST", path, json.dumps({"model": "m", "from": "m"}), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            response.read()
            assert response.status in (400, 404, 405), path
            connection.close()
        assert not engine.requests, "the request was sent to an engine"
