"""Every page of the dashboard as people meet it: readable for all, on a phone, in the dark, with nothing from elsewhere."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from browser.conftest import Open, Visit
from fakes.faults import Hang
from fakes.fleet import Machine
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.shown_fleet import ShownFleet
from herd.coordinator.api.dashboard_files import BUILT

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGES = {
    "fleet": "/dashboard",
    "trends": "/dashboard/trends",
    "models": "/dashboard/models?model=qwen3:8b",
    "apps": "/dashboard/apps?app=aider",
    "benchmarks": "/dashboard/benchmarks",
    "health": "/dashboard/health",
    "recommendations": "/dashboard/recommendations",
    "settings": "/dashboard/settings",
    "playground": "/dashboard/playground",
}
WIDTHS = (360, 1280)
THEMES = ("light", "dark")
BYTES_MAX = 90 * 1024
FIRST_PAGE_BYTES_MAX = 66 * 1024
NASTY = "<img src=x onerror=window.__hit=1>"


def broken_rules(page: Page) -> list[str]:
    """What axe finds, as one line a place."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:160]}" for rule in found for node in rule["nodes"]]


def is_wider_than_its_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_all_on_every_width_and_says_how_things_are(visit: Open, name: str, theme: str) -> None:
    seen: Visit = visit(WIDTHS[0], theme)
    page = seen.go(PAGES[name])
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert broken_rules(page) == []
        assert not is_wider_than_its_window(page), width
    assert page.locator("main p.verdict[role=status]").inner_text().strip() and page.locator("main h1").count() == 1
    assert seen.elsewhere == [] and seen.wrong == []


def test_a_request_is_told_whole_in_a_drawer_that_has_an_address(visit: Open, shown: ShownFleet) -> None:
    seen: Visit = visit(theme="dark")
    page = seen.go("/dashboard")
    row = page.locator("table a[href^='/dashboard/requests/']").first
    href = row.get_attribute("href")
    row.click()
    drawer = page.get_by_role("dialog")
    drawer.get_by_role("heading", name="Where the time went").wait_for()
    assert drawer.get_by_role("heading", name="Why").count() >= 1
    assert page.url.endswith(str(href)) and broken_rules(page) == []
    page.keyboard.press("Escape")
    page.wait_for_url("**/dashboard")
    assert page.get_by_role("dialog").count() == 0
    seen.page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{seen.origin}{href}")
    page.get_by_role("dialog").get_by_role("heading", name="Facts").wait_for()
    assert broken_rules(page) == [] and not is_wider_than_its_window(page)


def test_the_palette_goes_anywhere_by_keyboard_alone(visit: Open) -> None:
    page = visit().go("/dashboard")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.keyboard.press("Control+k")
    palette = page.get_by_role("dialog", name="Go to anything")
    palette.wait_for()
    assert broken_rules(page) == []
    page.keyboard.type("setti")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/settings")
    page.locator("main h1", has_text="Settings").wait_for()
    page.keyboard.press("Control+k")
    page.keyboard.type("page")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/trends")
    page.go_back()
    page.wait_for_url("**/dashboard/settings")


def test_a_name_that_is_markup_is_shown_as_what_it_is(visit: Open, shown: ShownFleet) -> None:
    model = "evil<script>window.__hit=1</script>"
    with FakeOllama([FakeModel(model, answer_tokens=3)]) as engine:
        shown.fleet.join("node<b onmouseover=window.__hit=1>", engine, Machine(more={"chip": NASTY, "os": NASTY}))
        shown.ask(model, NASTY, "hello")
        seen = visit()
        for path in PAGES.values():
            seen.go(path)
        page = seen.go("/dashboard")
        page.get_by_text(NASTY).first.wait_for()
        page.locator("table a[href^='/dashboard/requests/']").first.click()
        page.get_by_role("heading", name="Facts").wait_for()
        assert page.evaluate("window.__hit") is None and page.locator("img").count() == 0
        assert seen.elsewhere == [] and seen.wrong == []


def test_colours_follow_the_system_until_somebody_chooses(visit: Open) -> None:
    page = visit(theme="dark").go("/dashboard/health")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("Colours").select_option("light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    page.locator("main h1").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_the_range_is_part_of_the_address(visit: Open) -> None:
    page = visit().go("/dashboard/trends?range=7d")
    week = page.get_by_role("button", name="week")
    assert week.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="month").click()
    page.wait_for_url("**/dashboard/trends?range=30d")
    assert page.get_by_role("link", name="Models").get_attribute("href") == "/dashboard/models?range=30d"


def test_the_playground_streams_an_answer_and_says_where_from(visit: Open) -> None:
    page = visit().go("/dashboard/playground?model=llama3.2:3b")
    page.get_by_label("Your question").fill("What is a herd?")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="why there?").wait_for()
    for language in ("curl", "Python", "JavaScript"):
        page.get_by_role("button", name=language, exact=True).click()
        assert "llama3.2:3b" in page.locator("pre").last.inner_text()
    page.get_by_role("link", name="why there?").click()
    page.get_by_role("heading", name="Facts").wait_for()


def test_all_scripts_and_styles_together_are_small() -> None:
    assets = BUILT / "assets"
    if not assets.is_dir():
        pytest.skip("the dashboard's pages were not built: THEIR WEIGHT IS NOT KNOWN")
    weights = {
        path.name: len(gzip.compress(path.read_bytes(), 9, mtime=0))
        for path in assets.iterdir()
        if path.suffix in (".js", ".css")
    }
    first = sum(weight for name, weight in weights.items() if name.startswith("index"))
    assert sum(weights.values()) <= BYTES_MAX and first <= FIRST_PAGE_BYTES_MAX, weights


def test_the_same_question_goes_to_two_nodes_side_by_side(visit: Open) -> None:
    page = visit().go("/dashboard/playground?model=qwen3:8b")
    page.get_by_label("two nodes side by side").check()
    page.get_by_label("Node of side 1").select_option("studio")
    page.get_by_label("Node of side 2").select_option("gaming-pc")
    page.get_by_label("Your question").fill("What is a herd?")
    page.keyboard.press("Enter")
    for side, node in (("Side 1", "studio"), ("Side 2", "gaming-pc")):
        page.get_by_role("region", name=side).get_by_role("link", name=node, exact=True).wait_for()


def test_a_benchmark_is_estimated_started_watched_and_called_off(visit: Open, shown: ShownFleet) -> None:
    hangs = [engine.fail(Hang()) for engine in shown.engines.values()]
    page = visit().go("/dashboard/benchmarks")
    page.get_by_role("heading", name="Measured").wait_for()
    page.get_by_role("button", name="How long would it take?").click()
    page.get_by_text("requests, about").wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_role("heading", name="Measuring now").wait_for()
    page.get_by_role("button", name="Cancel").click()
    for engine, hang in zip(shown.engines.values(), hangs, strict=True):
        engine.heal()
        hang.release()
    page.get_by_role("heading", name="Measure", exact=True).wait_for()


def test_a_setting_is_found_changed_and_undone(visit: Open) -> None:
    page = visit().go("/dashboard/settings")
    page.get_by_label("Find a setting").fill("retention traces")
    days = page.get_by_label("Days to keep traces and latencies.")
    before = days.input_value()
    days.fill("a fortnight")
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("alert").wait_for()
    days.fill("14")
    page.get_by_role("button", name="Keep").click()
    undo = page.get_by_role("button", name="Undo the change of FLEET_TRACE_RETENTION_DAYS")
    undo.first.click()
    page.get_by_text("changed here").wait_for(state="detached")
    assert days.input_value() == before


def test_a_slider_tells_what_it_would_have_changed_and_changes_nothing(visit: Open) -> None:
    page = visit().go("/dashboard/settings")
    slider = page.get_by_role("slider", name="Model hot")
    assert page.get_by_role("slider").count() == 7
    slider.fill("1")
    page.locator(".outcome b").wait_for()
    page.get_by_role("button", name="Put back").click()
    assert slider.input_value() == "50"
    page.get_by_text("None yet.").or_(page.get_by_role("button", name="Undo")).first.wait_for()
