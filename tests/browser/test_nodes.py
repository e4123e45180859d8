"""The fleet page in a real browser: a node is paused with a reason, and resumed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser.conftest import Open, Visit
from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeOllama


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
