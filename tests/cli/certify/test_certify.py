"""`herd certify` passes a model that works, names the failing step of one that does not, and stores both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.llamacpp.engines import LlamaEngine
from fakes.scripted.conforming_model import ConformingModel
from fakes.scripted_engine import Answer, Json, ScriptedEngine
from herd import __version__
from herd.cli.certify.command import PATH, certify
from herd.cli.certify.steps import steps
from herd.cli.client import CliError, CoordinatorClient, coordinator_at
from herd.coordinator.storage.model_tests.conformance import ConformanceResult, StepResult, badges, failing_step
from terminal import IS_POSIX, Terminal, herd

WINDOW = 4096
MODEL = replace(
    a_model_info("m"),
    capabilities=frozenset(("completion", "tools", "vision")),
    context_max_tokens=WINDOW,
    digest="d1",
    size_bytes=10**9,
)
AGENTS = {"messages_tools", "responses_tools", "chat_tools"}
FLAWS = {
    "": (set(), ["Claude Code", "Codex", "tools", "JSON"]),
    "talks": (AGENTS | {"parallel_tools"}, ["JSON"]),
    "edit": (AGENTS, ["JSON"]),
    "endless": (AGENTS, ["JSON"]),
    "sequential": ({"parallel_tools"}, ["Claude Code", "Codex", "JSON"]),
    "stop": ({"stop"}, ["tools", "JSON"]),
    "json": ({"json_schema"}, ["Claude Code", "Codex", "tools"]),
    "vision": ({"vision"}, ["Claude Code", "Codex", "tools", "JSON"]),
    "recall": ({"recall_50", "recall_75"}, ["tools", "JSON"]),
}
"""For each flaw of a model: the steps that it fails, and the badges that it still gets."""


@contextmanager
def fleet_with(model: ConformingModel) -> Iterator[tuple[Fleet, ScriptedEngine]]:
    with ScriptedEngine(model) as engine, running_fleet({}) as fleet:
        engine.join(fleet, "one", [MODEL])
        yield fleet, engine


def client(fleet: Fleet) -> CoordinatorClient:
    return coordinator_at(fleet.url)


def results(fleet: Fleet) -> list[Json]:
    fleet.coordinator.store.flush()
    found = fleet.get(PATH)["results"]
    assert isinstance(found, list)
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Fleet, ConformingModel]]:
    model = ConformingModel()
    with fleet_with(model) as (fleet, _):
        yield fleet, model


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_fails_its_steps_and_costs_their_badges(running: tuple[Fleet, ConformingModel], flaw: str) -> None:
    fleet, model = running
    model.flaw = flaw
    failing, earned = FLAWS[flaw]
    assert certify(client(fleet), "m", "one", None, True) == (not failing)
    [stored] = results(fleet)
    assert {step["name"] for step in stored["steps"] if not step["passed"]} == failing, stored
    assert all(step["evidence"] for step in stored["steps"] if not step["passed"])
    assert stored["badges"] == earned
    assert (stored["node_id"], stored["version"], stored["digest"]) == ("one", __version__, "d1")
    assert (stored["failing_step"] or {}).get("name") == next(
        (step["name"] for step in stored["steps"] if step["name"] in failing), None
    )


def test_the_command_shows_each_step_and_herd_models_the_badges() -> None:
    with fleet_with(ConformingModel("json")) as (fleet, _):
        done = herd("certify", "m", url=fleet.url)
        assert done.status == 1
        assert "m on one" in done.out and "works with: Claude Code, Codex, tools" in done.out
        assert "failed  JSON schema" in done.out and "does not describe the person" in done.out
        assert results(fleet)
        assert "m: Claude Code, Codex, tools on one (failed: json_schema)" in herd("models", url=fleet.url).out


def test_other_weights_make_a_badge_invalid() -> None:
    with fleet_with(ConformingModel()) as (fleet, engine):
        certify(client(fleet), "m", "", None, True)
        assert results(fleet)[0]["badges"]
        engine.join(fleet, "one", [replace(MODEL, digest="d2")])
        [stored] = results(fleet)
        assert not stored["is_valid"] and not stored["badges"]
        assert "weights" in herd("models", url=fleet.url).out


def test_the_list_of_models_and_its_strict_client_have_the_badges_also_after_a_restart(tmp_path: Path) -> None:
    with ScriptedEngine(ConformingModel("stop")) as engine:
        for is_first in (True, False):
            with running_fleet({}, data_dir=tmp_path) as fleet:
                engine.join(fleet, "one", [MODEL])
                if is_first:
                    certify(client(fleet), "m", "one", None, True)
                    assert fleet.get("/v1/models")["data"][0]["conformance"]
                    step = {"name": "usage", "passed": True, "badges": ["JSON"]}
                    client(fleet).post(PATH, {"model": "m", "node_id": "one", "steps": [step]})
                    [badge] = fleet.get("/v1/models")["data"][0]["conformance"]
                    assert badge["works_with"] == ["JSON"], "a list of the same second is not repeated"
                    certify(client(fleet), "m", "one", None, True)
                with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="x") as sdk:
                    [listed] = sdk.models.list().data
                [badge] = listed.to_dict()["conformance"]
                assert (badge["works_with"], badge["failing_step"], badge["node"]) == (["tools", "JSON"], "stop", "one")
                engine.join(fleet, "one", [replace(MODEL, digest="d2")])
                assert "conformance" not in fleet.get("/v1/models/m")
                engine.join(fleet, "one", [MODEL])


def test_an_unknown_model_or_node_is_refused(running: tuple[Fleet, ConformingModel]) -> None:
    fleet, _ = running
    with pytest.raises(CliError, match="nope"):
        certify(client(fleet), "nope", "", None, True)
    body = {"model": "m", "node_id": "nowhere", "steps": [{"name": "x", "passed": True}]}
    with pytest.raises(CliError, match="not found on node nowhere"):
        client(fleet).post(PATH, body)
    with pytest.raises(CliError, match="steps"):
        client(fleet).post(PATH, {"model": "m", "node_id": "one", "steps": []})


def test_a_key_for_chats_cannot_store_a_result(running: tuple[Fleet, ConformingModel]) -> None:
    fleet, _ = running
    key = fleet.ask("POST", "/fleet/keys", b'{"name": "chats"}')["key"]
    try:
        with pytest.raises(CliError, match="models"):
            replace(client(fleet), key=key).post(PATH, {"model": "m", "node_id": "one", "steps": []})
    finally:
        fleet.ask("POST", "/fleet/keys/revoke", b'{"name": "chats"}')


@pytest.mark.skipif(not IS_POSIX, reason="needs a terminal")
def test_ctrl_c_ends_the_request_and_stores_nothing() -> None:
    is_asked, may_end = threading.Event(), threading.Event()
    model = ConformingModel()

    def script(path: str, body: Json) -> Answer:
        if not body.get("tools"):
            return model(path, body)
        return waiting()

    def waiting() -> Iterator[bytes]:
        is_asked.set()
        yield b": wait\n\n"
        may_end.wait(60)

    with ScriptedEngine(script) as engine, running_fleet({}) as fleet:
        engine.join(fleet, "one", [MODEL])
        with Terminal("certify", "m", "--node", "one", url=fleet.url) as screen:
            screen.until("m on one")
            assert is_asked.wait(60)
            screen.type("\x03")
            screen.until("nothing was stored")
            assert screen.end() == 130
        may_end.set()
        fleet.settle()
        assert results(fleet) == []


def test_a_real_small_model_fails_the_tool_steps_and_says_what_it_did() -> None:
    with LlamaEngine() as engine, running_fleet({"alpha": engine}) as fleet:
        [name] = [model["name"] for model in fleet.get("/fleet/status?detail=full")["nodes"][0]["models"]]
        assert not certify(client(fleet), name, "alpha", 512, True)
        [stored] = results(fleet)
        failed = {step["name"]: step["evidence"] for step in stored["steps"] if not step["passed"]}
        assert failed.keys() >= AGENTS and all(failed.values())
        assert "Claude Code" not in stored["badges"] and "tools" not in stored["badges"]


def test_vision_is_tested_only_if_the_model_claims_it() -> None:
    assert "vision" not in {step.name for step in steps(frozenset(("completion",)))}
    assert len({step.name for step in steps(frozenset(("vision",)))}) == 11


def test_a_badge_needs_every_step_that_names_it() -> None:
    passed = StepResult(name="a", passed=True, badges=("tools", "JSON"))
    failed = StepResult(name="b", passed=False, evidence="no", badges=("tools",))
    result = ConformanceResult(model="m", node_id="n", digest="", version="1", at=1.0, steps=(passed, failed))
    assert badges(result) == ("JSON",) and failing_step(result) == failed
    assert json.loads(json.dumps(badges(result))) == ["JSON"]
