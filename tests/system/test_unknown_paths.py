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
        assert (response.status, response.read()) == (404, b"404 page not found")
        connection.request("GET", "/v1/nope")
        response = connection.getresponse()
        assert response.status == 404
        assert json.loads(response.read())["error"]["type"] == "not_found_error"
        connection.close()


def test_requests_that_change_an_engines_files_are_not_passed_on() -> None:
    """Attacks on engines used model creation and upload, with blobs, to read the memory of the engine."""
    digest = "sha256:" + "0" * 64
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as fleet:
        for method, path in (
            ("POST", "/api/create"),
            ("POST", "/api/push"),
            ("HEAD", f"/api/blobs/{digest}"),
            ("POST", f"/api/blobs/{digest}"),
            ("POST", "/API/create"),
            ("POST", "/api/../api/create"),
            ("POST", "/api//create"),
            ("POST", "/api/chat/../create"),
            ("POST", "/api/create/"),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=10)
            connection.request(
                method,
                path,
                json.dumps({"model": "m", "from": "m", "source": "m", "destination": "n"}),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            response.read()
            assert response.status in (400, 404, 405), path
            connection.close()
        assert not engine.requests, "the request was sent to an engine"
