"""What is told live: it comes by itself, many tabs get it, hidden ones are spared, and a restart is survived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from browser.conftest import Open
from fakes.fleet import Machine, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.shown_fleet import ShownFleet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TABS = 12
"""More than the six connections that a browser gives one origin over HTTP/1.1."""


def is_live(page: Page) -> None:
    page.locator(".connection.live").wait_for()


def test_a_dozen_tabs_of_one_browser_are_all_live(chromium: Browser, shown: ShownFleet) -> None:
    context = chromium.new_context()
    pages = [context.new_page() for _ in range(TABS)]
    for page in pages:
        page.goto(f"{shown.fleet.url}/dashboard/health")
    for page in pages:
        is_live(page)
    context.close()


def test_a_node_that_joins_and_a_request_that_ends_are_seen_without_a_reload(visit: Open) -> None:
    with (
        FakeOllama([FakeModel("m", answer_tokens=3)]) as first,
        FakeOllama([FakeModel("m", answer_tokens=3)]) as second,
        running_fleet({"alpha": first}) as fleet,
    ):
        page = visit(origin=fleet.url).go("/dashboard")
        is_live(page)
        page.get_by_role("article", name="alpha").wait_for()
        fleet.join("beta", second, Machine(more={"chip": "Just Arrived"}))
        page.get_by_role("article", name="beta").get_by_text("Just Arrived").wait_for()
        page.get_by_text("Nobody has asked anything yet").wait_for()
        fleet.ask(
            "POST",
            "/api/chat",
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}).encode(),
        )
        page.get_by_role("region", name="Table: Latest requests").get_by_text("completed").wait_for()
        assert "alpha" in page.locator(".nodes").inner_text() and "beta" in page.locator(".nodes").inner_text()


def test_the_first_steps_tick_themselves_off(visit: Open) -> None:
    with FakeOllama([FakeModel("m", answer_tokens=3)]) as engine, running_fleet({}) as fleet:
        page = visit(origin=fleet.url).go("/dashboard")
        page.get_by_role("heading", name="Three steps to the first answer").wait_for()
        assert page.locator(".first li.done").count() == 0
        fleet.join("alpha", engine)
        page.locator(".first li.done").nth(1).wait_for()
        fleet.ask(
            "POST",
            "/api/chat",
            json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}).encode(),
        )
        page.locator(".first").wait_for(state="detached")


def test_a_tab_that_nobody_looks_at_asks_for_nothing_until_it_is_seen_again(visit: Open, shown: ShownFleet) -> None:
    seen = visit()
    with seen.page.expect_websocket() as opened:
        page = seen.go("/dashboard")
    is_live(page)
    show = "(isHidden) => { Object.defineProperty(document, 'hidden', {value: isHidden, configurable: true}); document.dispatchEvent(new Event('visibilitychange')); }"
    for is_hidden, topics in ((True, []), (False, ["fleet", "requests", "jobs"])):
        with opened.value.expect_event("framesent") as said:
            page.evaluate(show, is_hidden)
        assert json.loads(str(said.value)) == {"sub": topics}
    is_live(page)


def test_after_a_restart_of_the_coordinator_the_page_comes_back_by_itself(visit: Open, tmp_path: Path) -> None:
    with FakeOllama([FakeModel("m", answer_tokens=3)]) as engine:
        with running_fleet({"alpha": engine}, data_dir=tmp_path) as fleet:
            port = fleet.port
            page = visit(origin=fleet.url).go("/dashboard")
            is_live(page)
        page.get_by_role("alert").get_by_text("does not answer").wait_for()
        page.locator(".connection.lost").wait_for()
        with running_fleet({"omega": engine}, data_dir=tmp_path, port=port):
            is_live(page)
            page.get_by_role("article", name="omega").wait_for()
            assert page.get_by_role("article", name="alpha").count() == 0 and page.get_by_role("alert").count() == 0
