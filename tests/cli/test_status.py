"""Tests of the tables of nodes and models, also on a narrow terminal."""

from __future__ import annotations

import pytest

from herd.cli.models import NO_MODELS, by_model, model_lines
from herd.cli.status import NO_NODES, node_state, status_lines

Json = dict[str, object]


def a_model(**changed: object) -> Json:
    model: Json = {
        "name": "llama3.2:3b",
        "size_gb": 2.0,
        "digest": "sha256:aaaaaaaaaaaaaaaa",
        "parameter_size": "3.2B",
        "quantization": "Q4_K_M",
        "capabilities": ["completion"],
        "engine": "ollama",
        "loaded": True,
        "loaded_gb": 2.4,
        "context_length": 8192,
    }
    return {**model, **changed}


def a_node(**changed: object) -> Json:
    node: Json = {
        "node_id": "alpha",
        "status": "online",
        "last_heartbeat_s": 2.4,
        "draining": False,
        "paused": False,
        "reachable": True,
        "requests_active": 1,
        "requests_pending": 2,
        "memory": {"available_gb": 12.34},
        "engines": [{"kind": "ollama", "slots": 4}],
        "models": [a_model()],
    }
    return {**node, **changed}


def a_state(*nodes: Json, **changed: object) -> Json:
    online = sum(node["status"] != "offline" for node in nodes)
    fleet = {
        "nodes_total": len(nodes),
        "nodes_online": online,
        "models_loaded": 1,
        "requests_active": 1,
        "requests_waiting": 0,
    }
    return {"fleet": fleet, "nodes": list(nodes), "store": {"failing_since": None, "problem": ""}, **changed}


def shown(state: Json, width: int = 140) -> list[str]:
    return [line.plain for line in status_lines(state, width)]


def test_a_node_is_one_line() -> None:
    assert shown(a_state(a_node())) == [
        "1 node online, 1 running, 0 queued",
        "",
        "node   status  running  queued  memory free  engine     loaded       last seen",
        "alpha  online        1       2      12.3 GB  ollama x4  llama3.2:3b    2 s ago",
    ]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal_shows_the_node_and_its_state_without_wrapping(width: int) -> None:
    loaded = [a_model(name=f"a-model-with-a-long-name-{number}:70b") for number in range(6)]
    lines = shown(a_state(a_node(node_id="a-machine-with-a-long-name.local", models=loaded)), width)[2:]
    assert [line for line in lines if len(line) > width] == []
    assert "status" in lines[0] and "online" in lines[1]


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "online"),
        ({"status": "degraded"}, "degraded"),
        ({"paused": True}, "paused"),
        ({"draining": True, "paused": True}, "draining"),
        ({"reachable": False, "paused": True}, "unreachable"),
        ({"status": "offline", "reachable": False}, "offline"),
    ],
)
def test_the_state_is_the_main_reason_why_a_node_gets_no_requests(changed: Json, state: str) -> None:
    assert node_state(a_node(**changed)) == state


def test_an_empty_fleet_shows_what_to_run() -> None:
    assert shown(a_state()) == ["0 nodes online, 1 running, 0 queued", NO_NODES]
    assert [line.plain for line in model_lines([], 80)] == [NO_MODELS]


def test_traces_that_cannot_be_stored_are_reported() -> None:
    assert "Traces cannot be stored: disk full" in shown(
        a_state(a_node(), store={"failing_since": 1.0, "problem": "disk full"})
    )


def test_a_model_shows_where_it_is_loaded_with_its_context_and_where_it_is_only_on_disk() -> None:
    state = a_state(a_node(), a_node(node_id="beta", models=[a_model(loaded=False, context_length=None)]))
    assert [line.plain for line in model_lines(by_model(state), 140)] == [
        "model          size  params  quant   loaded (context)  on disk only",
        "llama3.2:3b  2.0 GB    3.2B  Q4_K_M  alpha (8192)      beta",
    ]


def test_different_versions_of_a_model_are_reported_with_the_command_that_fixes_them() -> None:
    state = a_state(a_node(), a_node(node_id="beta", models=[a_model(digest="sha256:bbbbbbbbbbbbbbbb")]))
    lines = [line.plain for line in model_lines(by_model(state), 140)]
    assert lines[-2] == "llama3.2:3b has different versions: aaaaaaaaaaaa on alpha, bbbbbbbbbbbb on beta"
    assert lines[-1].endswith("ollama pull llama3.2:3b")


def test_a_model_without_a_digest_has_not_drifted() -> None:
    state = a_state(a_node(), a_node(node_id="beta", models=[a_model(digest="")]))
    assert [model["has_drifted"] for model in by_model(state)] == [False]


def test_m_and_m_latest_are_the_same_model() -> None:
    state = a_state(a_node(models=[a_model(name="M")]), a_node(node_id="beta", models=[a_model(name="m:latest")]))
    assert [len(model["nodes"]) for model in by_model(state)] == [2]
