"""A path that nobody serves is told in the shape its clients know."""

from __future__ import annotations

import http.client
import json

from fakes.fleet import running_fleet


def test_unknown_paths_answer_as_ollama_and_as_openai_do() -> None:
    with running_fleet({}) as fleet:
        connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=10)
        connection.request("GET", "/api/nope")
        response = connection.getresponse()
        assert (response.status, response.read()) == (404, b"404 page not found")
        connection.request("GET", "/v1/nope")
        response = connection.getresponse()
        assert response.status == 404
        assert json.loads(response.read())["error"]["type"] == "not_found_error"
        connection.close()
