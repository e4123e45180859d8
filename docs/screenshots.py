"""Takes the screenshots of the dashboard in docs/pictures/ with Chromium, from a simulated fleet with a fixed seed.

`python3 dev.py screenshots` takes all of them, `python3 dev.py screenshots NAME...` only the named ones. Review them
before you commit them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from fakes.dashboard.shown_fleet import ShownFleet, shown_fleet  # noqa: E402

PICTURES: Final = ROOT / "docs/pictures"
PAGES: Final = {
    "fleet": "/dashboard",
    "trends": "/dashboard/trends",
    "models": "/dashboard/models?model=qwen3:8b",
    "apps": "/dashboard/apps?app=aider",
    "benchmarks": "/dashboard/benchmarks",
    "health": "/dashboard/health",
    "recommendations": "/dashboard/recommendations",
    "settings": "/dashboard/settings",
    "playground": "/dashboard/playground?model=qwen3:8b",
    "request": "/dashboard/requests/{request}",
}
IN_THREE_FORMS: Final = ("fleet", "trends", "request")
WIDE: Final = {"width": 1280, "height": 860}
PHONE: Final = {"width": 390, "height": 844}
SETTLE_MS: Final = 2500
WARM_UP_S: Final = 8.0
HEIGHT_MAX: Final = 1400


def main(names: list[str]) -> int:
    wanted = [name for name in PAGES if not names or name in names]
    PICTURES.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with shown_fleet() as shown, sync_playwright() as playwright:
        snooze_open_fleet(shown)
        if "benchmarks" in wanted:
            shown.benchmark("gaming-pc", "mini", "attic")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with shown.traffic():
            time.sleep(WARM_UP_S)
            for name in wanted:
                take(browser, shown, name, "light", WIDE, "light")
                if name in IN_THREE_FORMS:
                    take(browser, shown, name, "dark", WIDE, "dark")
                    take(browser, shown, name, "phone", PHONE, "light")
        browser.close()
    return 0


def snooze_open_fleet(shown: ShownFleet) -> None:
    """The simulated nodes are not paired. The health check reports that as a finding, which is snoozed here."""
    snooze = {"finding_id": "open_fleet", "hours": 24, "reason": "simulated fleet"}
    shown.fleet.ask("POST", "/dashboard/api/health/snooze", json.dumps(snooze).encode())


def take(browser: Browser, shown: ShownFleet, name: str, kind: str, size: dict[str, int], theme: str) -> None:
    context = browser.new_context(viewport=size, color_scheme=theme, device_scale_factor=1)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(shown.fleet.url + PAGES[name].format(request=newest_request_id(shown.fleet.url)))
    page.wait_for_timeout(SETTLE_MS)
    if name == "playground":
        compare_two_nodes(page)
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": min(HEIGHT_MAX, height)})
    page.wait_for_timeout(400)
    page.screenshot(path=PICTURES / f"{name}-{kind}.png")
    context.close()


def compare_two_nodes(page: Page) -> None:
    page.get_by_label("Compare two nodes").check()
    page.get_by_label("Node of chat 1").select_option("studio")
    page.get_by_label("Node of chat 2").select_option("gaming-pc")
    page.get_by_label("Message").fill("What is a herd?")
    page.keyboard.press("Enter")
    page.wait_for_timeout(SETTLE_MS)


def newest_request_id(url: str) -> str:
    with urllib.request.urlopen(f"{url}/dashboard/api/overview") as response:
        latest = json.load(response)["latest"]
    return str(next(one["request_id"] for one in latest if one["status"] == "completed"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
