"""Every page of the dashboard in a real browser: accessibility, phone width, both themes, and no external requests."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from browser.conftest import Open, Visit
from fakes.dashboard.settings_store import a_settings_store
from fakes.dashboard.shown_fleet import ShownFleet
from fakes.faults import Hang
from fakes.fleet import Machine, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
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


def accessibility_violations(page: Page) -> list[str]:
    """The accessibility violations that axe finds, one line each."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:160]}" for rule in found for node in rule["nodes"]]


def is_wider_than_its_window(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_accessible_at_every_width_and_has_a_summary(visit: Open, name: str, theme: str) -> None:
    seen: Visit = visit(WIDTHS[0], theme)
    page = seen.go(PAGES[name])
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert accessibility_violations(page) == []
        assert not is_wider_than_its_window(page), width
    assert page.locator("main p.summary[role=status]").inner_text().strip() and page.locator("main h1").count() == 1
    assert seen.external == [] and seen.errors == []


def test_a_request_opens_in_a_drawer_with_its_own_url(visit: Open, shown: ShownFleet) -> None:
    seen: Visit = visit(theme="dark")
    page = seen.go("/dashboard")
    row = page.locator("table a[href^='/dashboard/requests/']").first
    href = row.get_attribute("href")
    row.click()
    drawer = page.get_by_role("dialog")
    drawer.get_by_role("heading", name="Timeline").wait_for()
    assert drawer.get_by_role("heading", name="Why").count() >= 1
    assert page.url.endswith(str(href)) and accessibility_violations(page) == []
    page.keyboard.press("Escape")
    page.wait_for_url("**/dashboard")
    assert page.get_by_role("dialog").count() == 0
    seen.page.set_viewport_size({"width": 360, "height": 800})
    page.goto(f"{seen.origin}{href}")
    page.get_by_role("dialog").get_by_role("heading", name="Details").wait_for()
    assert accessibility_violations(page) == [] and not is_wider_than_its_window(page)


def test_the_search_dialog_works_by_keyboard_alone(visit: Open) -> None:
    page = visit().go("/dashboard")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Control+k")
    page.get_by_role("dialog", name="Search").wait_for()
    assert accessibility_violations(page) == []
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


def test_markup_in_names_is_shown_as_text(visit: Open, shown: ShownFleet) -> None:
    model = "evil<script>window.__hit=1</script>"
    with FakeOllama([FakeModel(name=model, answer_tokens=3)]) as engine:
        shown.fleet.join("node<b onmouseover=window.__hit=1>", engine, Machine(more={"chip": NASTY, "os": NASTY}))
        shown.ask(model, NASTY, "hello")
        seen = visit()
        for path in PAGES.values():
            seen.go(path)
        page = seen.go("/dashboard")
        page.get_by_text(NASTY).first.wait_for()
        page.locator("table a[href^='/dashboard/requests/']").first.click()
        page.get_by_role("heading", name="Details").wait_for()
        assert page.evaluate("window.__hit") is None and page.locator("img").count() == 0
        assert seen.external == [] and seen.errors == []


def test_the_theme_follows_the_system_until_the_user_chooses_one(visit: Open) -> None:
    page = visit(theme="dark").go("/dashboard/health")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("Theme").select_option("light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    page.locator("main h1").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_the_time_range_is_part_of_the_url(visit: Open) -> None:
    page = visit().go("/dashboard/trends?range=7d")
    week = page.get_by_role("button", name="Week")
    assert week.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Month").click()
    page.wait_for_url("**/dashboard/trends?range=30d")
    assert page.get_by_role("link", name="Models").get_attribute("href") == "/dashboard/models?range=30d"


def test_the_playground_streams_an_answer_and_shows_its_node(visit: Open) -> None:
    page = visit().go("/dashboard/playground?model=llama3.2:3b")
    page.get_by_label("Message").fill("What is a herd?")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Why this node?").wait_for()
    for language in ("curl", "Python", "JavaScript"):
        page.get_by_role("button", name=language, exact=True).click()
        assert "llama3.2:3b" in page.locator("pre").last.inner_text()
    page.get_by_role("link", name="Why this node?").click()
    page.get_by_role("heading", name="Details").wait_for()


def test_scripts_and_styles_stay_within_their_size_limits() -> None:
    assets = BUILT / "assets"
    if not assets.is_dir():
        pytest.skip("the dashboard's pages were not built: THEIR SIZE IS NOT TESTED")
    weights = {
        path.name: len(gzip.compress(path.read_bytes(), 9, mtime=0))
        for path in assets.iterdir()
        if path.suffix in (".js", ".css")
    }
    first = sum(weight for name, weight in weights.items() if name.startswith(("index", "style")))
    assert sum(weights.values()) <= BYTES_MAX and first <= FIRST_PAGE_BYTES_MAX, weights


def test_the_playground_sends_the_same_question_to_two_nodes(visit: Open) -> None:
    page = visit().go("/dashboard/playground?model=qwen3:8b")
    page.get_by_label("Compare two nodes").check()
    page.get_by_label("Node of chat 1").select_option("studio")
    page.get_by_label("Node of chat 2").select_option("gaming-pc")
    page.get_by_label("Message").fill("What is a herd?")
    page.keyboard.press("Enter")
    for chat, node in (("Chat 1", "studio"), ("Chat 2", "gaming-pc")):
        page.get_by_role("region", name=chat).get_by_role("link", name=node, exact=True).wait_for()


def test_a_benchmark_is_estimated_started_followed_and_cancelled(visit: Open, shown: ShownFleet) -> None:
    hangs = [engine.fail(Hang()) for engine in shown.engines.values()]
    page = visit().go("/dashboard/benchmarks")
    page.get_by_role("heading", name="Results of").wait_for()
    page.get_by_role("button", name="Estimate duration").click()
    page.get_by_text("requests, about").wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_role("heading", name="Benchmark running").wait_for()
    page.get_by_role("button", name="Cancel").click()
    for engine, hang in zip(shown.engines.values(), hangs, strict=True):
        engine.heal()
        hang.release()
    page.get_by_role("heading", name="Run a benchmark").wait_for()


def test_a_setting_is_found_changed_and_undone(visit: Open) -> None:
    page = visit().go("/dashboard/settings")
    page.get_by_label("Search settings").fill("retention traces")
    days = page.get_by_label("Days to keep traces and latencies.")
    before = days.input_value()
    days.fill("a fortnight")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("alert").wait_for()
    days.fill("14")
    page.get_by_role("button", name="Save").click()
    undo = page.get_by_role("button", name="Undo the change of FLEET_TRACE_RETENTION_DAYS")
    undo.first.click()
    page.get_by_text("changed in the dashboard").wait_for(state="detached")
    assert days.input_value() == before


def test_moving_a_weight_slider_shows_a_preview_and_changes_no_setting(visit: Open) -> None:
    page = visit().go("/dashboard/settings")
    slider = page.get_by_role("slider", name="Model loaded")
    assert page.get_by_role("slider").count() == 7
    slider.fill("1")
    page.locator(".preview b").wait_for()
    page.get_by_role("button", name="Reset").click()
    assert slider.input_value() == "50"
    page.get_by_text("No changes yet.").or_(page.get_by_role("button", name="Undo")).first.wait_for()


def test_a_model_is_deleted_after_its_name_is_confirmed(visit: Open) -> None:
    with FakeOllama(["m", "n"]) as engine, running_fleet({"alpha": engine}) as fleet:
        page = visit(origin=fleet.url).go("/dashboard/models?model=n:latest")
        page.get_by_role("button", name="Delete from alpha").click()
        dialog = page.get_by_role("dialog", name="Delete n:latest from alpha?")
        delete = dialog.get_by_role("button", name="Delete")
        assert delete.is_disabled()
        dialog.get_by_label("Model name").fill("n:latest")
        delete.click()
        page.get_by_text("Deleted n:latest from alpha.").wait_for()
        assert set(engine.models) == {"m:latest"}


def test_an_alias_is_defined_and_removed_on_the_page(visit: Open, tmp_path: Path) -> None:
    store = a_settings_store(tmp_path, {})
    with (
        FakeOllama(["m"]) as engine,
        running_fleet({"alpha": engine}, data_dir=tmp_path, settings_store=store) as fleet,
    ):
        page = visit(origin=fleet.url).go("/dashboard/models")
        page.get_by_label("Alias", exact=True).fill("fast")
        page.get_by_label("Models of the alias, the preferred one first").fill("gone, m")
        page.get_by_role("button", name="Define").click()
        page.get_by_text("fast is answered by gone, m.").wait_for()
        page.get_by_role("row", name="fast").wait_for()
        assert fleet.coordinator.models.aliases.defined == {"fast": ("gone", "m")}
        page.get_by_role("button", name="Remove fast").click()
        page.get_by_text("Removed fast.").wait_for()
        assert not fleet.coordinator.models.aliases.defined
