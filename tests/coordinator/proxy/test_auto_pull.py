"""Tests auto-pull: a model that no node has is downloaded while its request waits, within limits."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import pytest

from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.request_context import FakeSettings
from fakes.ollama.server import FakeModel, FakeOllama
from herd.coordinator.proxy.auto_pull import AutoPullSettings
from herd.coordinator.proxy.wait_comments import WaitCommentSettings

HI = [{"role": "user", "content": "Hi"}]
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}
"""The header of a request that a proxy has forwarded from another machine."""


@contextmanager
def a_fleet(**settings: Any) -> Iterator[tuple[Fleet, FakeOllama]]:
    """One node whose registry has `new`, and a thread that sends its heartbeats."""
    wanted = replace(
        settings_for_tests(), auto_pull=AutoPullSettings(**settings), wait_comments=WaitCommentSettings(every_s=0.1)
    )
    registry = FakeSettings(registry={"new:latest": FakeModel(name="new", size_bytes=4_000_000_000)})
    with FakeOllama(["m"], registry) as node, running_fleet({"one": node}, settings=wanted) as fleet:
        over = Event()

        def beat() -> None:
            while not over.wait(0.1):
                fleet.beat()

        thread = Thread(target=beat)
        thread.start()
        try:
            yield fleet, node
        finally:
            over.set()
            thread.join()


def ask(
    fleet: Fleet, path: str = "/api/chat", headers: dict[str, str] | None = None, **body: Any
) -> tuple[int, dict[str, str], bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        whole = {"model": "new", "messages": HI, "stream": False, **body}
        connection.request("POST", path, json.dumps(whole), {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def test_a_request_for_an_unknown_model_waits_for_its_download() -> None:
    with a_fleet() as (fleet, node):
        status, headers, body = ask(fleet)
        assert status == 200, body
        assert headers["x-fleet-node"] == "one" and "x-fleet-waited-ms" in headers
        assert "new:latest" in node.models
        fleet.coordinator.store.flush()
        assert "auto-pull" in fleet.get("/dashboard/api/traces")["traces"][0]["tags"]


def test_a_waiting_stream_reports_the_progress_on_request() -> None:
    with a_fleet() as (fleet, node):
        gate = node.fail(Gate())
        body = {"model": "new", "messages": HI, "stream": True}
        headers = {"Content-Type": "application/json", "X-Fleet-Waiting": "notes"}
        with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            assert response.readline().startswith(b": waiting, position 0, for the download of new onto one")
            node.heal()
            gate.release()
            assert response.read().rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize("settings", [{"is_on": False}, {"allowed_clients": "admins"}])
def test_a_remote_client_or_a_disabled_auto_pull_gets_404(settings: dict[str, Any]) -> None:
    with a_fleet(**settings) as (fleet, node):
        status, _, body = ask(fleet, headers=FORWARDED if "allowed_clients" in settings else None)
        assert status in (401, 404), body
        assert not any(seen.path == "/api/pull" for seen in node.requests)


def test_a_model_that_the_registry_does_not_have_is_reported() -> None:
    with a_fleet() as (fleet, _):
        status, _, body = ask(fleet, model="nowhere")
        assert status == 404 and b"could not be downloaded" in body and b"file does not exist" in body
        status, _, body = ask(fleet, model="evil.host/a/x")
        assert status == 404 and b"evil.host" in body


def test_the_download_stops_when_the_last_waiting_client_disconnects() -> None:
    with a_fleet() as (fleet, node):
        gate = node.fail(Gate())
        connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
        connection.request(
            "POST", "/api/chat", json.dumps({"model": "new", "messages": HI}), {"Content-Type": "application/json"}
        )
        node.wait(lambda: any(seen.path == "/api/pull" for seen in node.requests), "a pull")
        connection.close()
        node.wait(
            lambda: any(seen.path == "/api/pull" and seen.outcome == "aborted" for seen in node.requests),
            "the pull's end",
        )
        gate.release()
        (job,) = fleet.get("/fleet/pulls")["jobs"]
        assert job["state"] == "cancelled"


def test_the_wait_for_a_download_has_a_limit() -> None:
    with a_fleet(timeout_s=0.2) as (fleet, node):
        gate = node.fail(Gate())
        status, _, body = ask(fleet)
        gate.release()
        assert status == 503 and b"herd pulls" in body
