"""The pages in a real browser: nodes are paused, resumed and approved, and show users and what models work with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from access_fixtures import ask
from browser.conftest import Open, Visit
from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama
from herd.coordinator.auth.membership import MembershipSettings


@pytest.fixture
def two_nodes() -> Iterator[Fleet]:
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        running_fleet({"alpha": one, "beta": two}, settings=settings_of_steady_nodes()) as fleet,
    ):
        yield fleet


def test_a_node_is_paused_with_a_reason_and_resumed(visit: Open, two_nodes: Fleet) -> None:
    seen: Visit = visit(origin=two_nodes.url)
    page = seen.go("/dashboard")
    card = page.get_by_role("article", name="alpha")
    card.get_by_text("Pause or drain").click()
    card.get_by_label("Reason").fill("new driver")
    card.get_by_role("button", name="Pause alpha").click()
    card.get_by_text("paused by an administrator: new driver").wait_for()
    card.locator(".state", has_text="paused").wait_for()
    [line] = [one for one in two_nodes.get("/fleet/nodes")["nodes"] if one["node_id"] == "alpha"]
    assert (line["duty"], line["reason"]) == ("paused", "new driver")
    card.get_by_role("button", name="Resume alpha").click()
    card.get_by_text("Pause or drain").wait_for()
    assert card.locator(".state", has_text="paused").count() == 0
    assert seen.errors == []


def test_an_agent_of_ollama_herd_is_approved_with_a_click(visit: Open) -> None:
    settings = replace(settings_of_steady_nodes(), membership=MembershipSettings())
    report = {"node_id": "studio", "memory": {"total_gb": 32.0}, "ollama": {}, "ollama_host": "http://127.0.0.1:9"}
    with running_fleet({}, settings=settings) as fleet:
        assert ask(fleet, "POST", "/heartbeat", report)[0] == 401
        seen = visit(origin=fleet.url)
        page = seen.go("/dashboard")
        page.get_by_role("button", name="Approve studio at 127.0.0.1").click()
        page.get_by_text("studio joins with its next heartbeat.").wait_for()
        assert ask(fleet, "POST", "/heartbeat", report)[0] == 200
        assert seen.errors == []


def test_the_models_page_shows_what_a_model_works_with_and_the_apps_page_its_users(
    visit: Open, two_nodes: Fleet
) -> None:
    steps = [
        {"name": "one tool call", "passed": True, "badges": ["Claude Code"]},
        {"name": "JSON schema", "passed": False, "evidence": "no object", "badges": ["JSON"]},
    ]
    result = {"model": "m", "node_id": "alpha", "steps": steps}
    assert ask(two_nodes, "POST", "/fleet/conformance", result)[0] == 201
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    assert ask(two_nodes, "POST", "/api/chat", chat)[0] == 200
    two_nodes.settle()
    assert two_nodes.coordinator.store.flush()
    seen = visit(origin=two_nodes.url)
    page = seen.go("/dashboard/models?model=m:latest")
    page.get_by_role("row", name="m:latest").get_by_text("Claude Code").wait_for()
    page.get_by_text("failed: JSON schema").wait_for()
    page = seen.go("/dashboard/apps")
    page.get_by_role("region", name="Table: Users").get_by_role("row", name="127.0.0.1").wait_for()
    assert seen.errors == []
