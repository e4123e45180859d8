"""Starts Chromium and a real coordinator with a day of history for the browser tests.

Without Chromium, or without built pages, the tests are skipped with a message; with CI=true that is an error.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from fakes.dashboard.shown_fleet import ShownFleet, shown_fleet
from herd.coordinator.api.dashboard_files import BUILT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HISTORY_HOURS = 26


def missing() -> str:
    """What is missing to run these tests; "" if nothing is missing."""
    if chromium_path() is None:
        return "Chromium is not installed (apt install chromium, or set CHROMIUM=/path/to/it)"
    if not (BUILT / "index.html").is_file():
        return "the dashboard's pages were not built (python3 dev.py test builds them)"
    try:
        import playwright.sync_api  # noqa: F401, PLC0415
    except ImportError:
        return "playwright is not installed (python3 dev.py test installs it)"
    return ""


def chromium_path() -> str | None:
    named = os.environ.get("CHROMIUM")
    return (
        named
        if named and Path(named).exists()
        else next((path for name in NAMES if (path := shutil.which(name))), None)
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for each test file. While Playwright runs, its event loop occupies the thread, and other files use
    their own loop."""
    if problem := missing():
        message = f"{problem}: THE DASHBOARD IS NOT TESTED IN A BROWSER"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shown(chromium: Browser) -> Iterator[ShownFleet]:
    """Four nodes, a day of history, and three requests with recorded candidates."""
    with shown_fleet(is_slow=False, history_hours=HISTORY_HOURS) as fleet:
        for text in ("one", "two", "three"):
            fleet.ask("qwen3:8b", "aider", text)
        fleet.benchmark("gaming-pc", "mini")
        yield fleet


@dataclass
class Visit:
    """One browser page with the URLs that it requested and the errors that occurred in it."""

    page: Page
    origin: str
    requested: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def external(self) -> list[str]:
        """Requested URLs outside the coordinator."""
        here = urlsplit(self.origin).netloc
        return [
            url
            for url in self.requested
            if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != here
        ]

    def go(self, path: str) -> Page:
        """Opens a page and returns when it has finished loading."""
        self.page.goto(self.origin + path)
        self.page.locator("main h1").wait_for()
        busy = self.page.locator("[aria-busy=true]")
        while busy.count():
            busy.first.wait_for(state="detached")
        return self.page


Open = Callable[..., "Visit"]


@pytest.fixture
def visit(chromium: Browser, shown: ShownFleet) -> Iterator[Open]:
    """`visit(width=360, theme="dark", origin=...)` opens a page in a new browser profile."""
    contexts = []

    def opened(width: int = 1280, theme: str = "light", origin: str = "", motion: str = "reduce") -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=theme, reduced_motion=motion
        )  # type: ignore[arg-type]
        contexts.append(context)
        visit = Visit(context.new_page(), origin or shown.fleet.url)
        visit.page.on("request", lambda request: visit.requested.append(request.url))
        visit.page.on("websocket", lambda socket: visit.requested.append(socket.url.replace("ws://", "http://", 1)))
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on(
            "console",
            lambda entry: visit.errors.append(entry.text) if "Content Security Policy" in entry.text else None,
        )
        return visit

    yield opened
    for context in contexts:
        context.close()


@contextmanager
def offline(page: Page) -> Iterator[None]:
    page.context.set_offline(True)
    try:
        yield
    finally:
        page.context.set_offline(False)
