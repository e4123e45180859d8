"""A running fleet for tests adds nodes by real heartbeats and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import closing
from typing import Any

import pytest

from fakes.child_process import wait_until
from fakes.faults import Cut, Hang
from fakes.fleet import Fleet, Machine, running_fleet
from fakes.llamacpp.engines import HAS_XLLAMACPP, EngineSettings, LlamaEngine
from fakes.ollama.server import FakeOllama

HI = [{"role": "user", "content": "Say hi."}]


def post(fleet: Fleet, path: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_each_node_reports_its_models() -> None:
    with FakeOllama(["m", "n"]) as one, FakeOllama(["m"]) as two, running_fleet({"one": one, "two": two}) as fleet:
        nodes = {node["node_id"]: node for node in fleet.get("/fleet/status")["nodes"]}
        assert [model["name"] for model in nodes["one"]["models"]] == ["m:latest", "n:latest"]
        assert [model["name"] for model in nodes["two"]["models"]] == ["m:latest"]


def test_loaded_model_is_reported_in_the_next_heartbeat() -> None:
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}) as fleet:
        assert post(fleet, "/api/chat", {"model": "m", "messages": HI, "stream": False})[0] == 200
        fleet.beat()
        assert fleet.get("/fleet/status")["fleet"]["models_loaded"] == 1


def test_nodes_can_join_later_and_have_less_memory() -> None:
    with FakeOllama(["m"]) as small, FakeOllama(["m"]) as late:
        machines = {"small": Machine(memory_gb=8.0, used_gb=7.99)}
        with running_fleet({"small": small}, machines) as fleet:
            fleet.join("late", late)
            assert post(fleet, "/api/chat", {"model": "m", "messages": HI, "stream": False})[0] == 200
            assert (len(small.inference), len(late.inference)) == (0, 1)


def test_broken_node_does_not_affect_a_client_before_the_first_byte() -> None:
    with FakeOllama(["m"]) as hot, FakeOllama(["m"]) as cold, running_fleet({"hot": hot}) as fleet:
        body = {"model": "m", "messages": HI, "stream": False}
        assert post(fleet, "/api/chat", body)[0] == 200
        fleet.join("cold", cold)
        fleet.beat()
        fault = hot.fail(Cut(after_bytes=0))
        assert [post(fleet, "/api/chat", body)[0] for _ in range(4)] == [200] * 4
        assert fault.used > 0
        fleet.settle()
        assert fleet.on_loop(lambda: dict(fleet.coordinator.driver.runs)) == {}


def test_a_request_that_never_ends_is_named_by_settle() -> None:
    with FakeOllama(["m"]) as fake, running_fleet({"alpha": fake}) as fleet:
        fault = fake.fail(Hang())
        with closing(socket.create_connection(("127.0.0.1", fleet.port))) as client:
            body = json.dumps({"model": "m", "messages": HI}).encode()
            client.sendall(
                b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            wait_until(lambda: fault.used > 0, "the request")
            with pytest.raises(AssertionError, match=r"chat of m:latest, .*alpha"):
                fleet.settle(limit_s=0.0)


@pytest.mark.skipif(not HAS_XLLAMACPP, reason="xllamacpp is not installed")
def test_real_engine_is_recognized_and_answers_through_the_coordinator() -> None:
    with LlamaEngine(EngineSettings(alias="tiny", slots=2)) as engine, running_fleet({"real": engine}) as fleet:
        body = {"model": "tiny", "messages": HI, "max_tokens": 4, "seed": 1}
        status, answer = post(fleet, "/v1/chat/completions", body)
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"].strip()
