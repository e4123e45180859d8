"""Live updates: they arrive without a reload, in many tabs, not in hidden tabs, and again after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from browser.conftest import Open
from fakes.dashboard.shown_fleet import ShownFleet
from fakes.fleet import Machine, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TABS = 12
"""More than the six HTTP/1.1 connections that a browser opens to one origin."""


def wait_until_live(page: Page) -> None:
    page.locator(".connection.live").wait_for()


def test_twelve_tabs_of_one_browser_are_all_live(chromium: Browser, shown: ShownFleet) -> None:
    context = chromium.new_context()
    pages = [context.new_page() for _ in range(TABS)]
    for page in pages:
        page.goto(f"{shown.fleet.url}/dashboard/health")
    for page in pages:
        wait_until_live(page)
    context.close()


def test_a_joined_node_and_an_ended_request_appear_without_a_reload(visit: Open) -> None:
    with (
        FakeOllama([FakeModel(name="m", answer_tokens=3)]) as first,
        FakeOllama([FakeModel(name="m", answer_tokens=3)]) as second,
        running_fleet({"alpha": first}) as fleet,
    ):
        page = visit(origin=fleet.url).go("/dashboard")
        wait_until_live(page)
        page.get_by_role("article", name="alpha").wait_for()
        fleet.join("beta", second, Machine(more={"chip": "Just Arrived"}))
        page.get_by_role("article", name="beta").get_by_text("Just Arrived").wait_for()
        page.get_by_text("No requests yet").wait_for()
        fleet.ask(
            "POST",
            "/api/chat",
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}).encode(),
        )
        page.get_by_role("region", name="Table: Latest requests").get_by_text("completed").wait_for()
        assert "alpha" in page.locator(".nodes").inner_text() and "beta" in page.locator(".nodes").inner_text()


def test_the_setup_steps_complete_automatically(visit: Open) -> None:
    with FakeOllama([FakeModel(name="m", answer_tokens=3)]) as engine, running_fleet({}) as fleet:
        page = visit(origin=fleet.url).go("/dashboard")
        page.get_by_role("heading", name="Get started in three steps").wait_for()
        assert page.locator(".setup li.done").count() == 0
        fleet.join("alpha", engine)
        page.locator(".setup li.done").nth(1).wait_for()
        fleet.ask(
            "POST",
            "/api/chat",
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}).encode(),
        )
        page.locator(".setup").wait_for(state="detached")


def test_a_hidden_tab_subscribes_to_nothing_until_it_is_visible_again(visit: Open, shown: ShownFleet) -> None:
    seen = visit()
    with seen.page.expect_websocket() as opened:
        page = seen.go("/dashboard")
    wait_until_live(page)
    show = """(isHidden) => {
        Object.defineProperty(document, 'hidden', {value: isHidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    for is_hidden, topics in ((True, []), (False, ["fleet", "requests", "jobs"])):
        with opened.value.expect_event("framesent") as sent:
            page.evaluate(show, is_hidden)
        assert json.loads(str(sent.value)) == {"sub": topics}
    wait_until_live(page)


def test_the_page_reconnects_after_a_restart_of_the_coordinator(visit: Open, tmp_path: Path) -> None:
    with FakeOllama([FakeModel(name="m", answer_tokens=3)]) as engine:
        with running_fleet({"alpha": engine}, data_dir=tmp_path) as fleet:
            port = fleet.port
            page = visit(origin=fleet.url).go("/dashboard")
            wait_until_live(page)
        page.get_by_role("alert").get_by_text("Connection to the coordinator lost").wait_for()
        page.locator(".connection.lost").wait_for()
        with running_fleet({"omega": engine}, data_dir=tmp_path, port=port):
            wait_until_live(page)
            page.get_by_role("article", name="omega").wait_for()
            assert page.get_by_role("article", name="alpha").count() == 0 and page.get_by_role("alert").count() == 0
