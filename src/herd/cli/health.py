"""`herd health`: what is wrong with the whole fleet, worst first, with its numbers and the command that mends it. Judges nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.screen import clean, console, folded, show
from herd.text import duration, number

PATH = "/dashboard/api/v1/health"
STYLES = (("critical", "bold red"), ("warning", "yellow"), ("info", "cyan"))
EVIDENCE_SHOWN = 6


def health(coordinator: CoordinatorClient, as_json: bool, everything: bool = False) -> bool:
    """Whether nothing is critical. `everything`: what passed too."""
    found = coordinator.get(PATH)
    show(found, as_json, lambda told: lines(told, console.width, time.time(), everything))
    return all(one["severity"] != "critical" for one in found["findings"])


def lines(told: Json, width: int, now: float, everything: bool) -> Iterator[Text]:
    for finding in told["findings"]:
        yield from _finding(finding, width, now)
    if everything:
        for passed in told["passed"]:
            yield from folded(Text("ok        ", "green"), f"{passed['title']} ({passed['check']})", width)
    well = f"{number(len(told['passed']), 'check')} found nothing."
    yield from folded(
        Text(), f"{told['summary']} {well} Score {told['score']['arithmetic']}", width, _verdict_style(told)
    )


def _finding(finding: Json, width: int, now: float) -> Iterator[Text]:
    severity = str(finding["severity"])
    since = f"{duration(max(0.0, now - finding['since']) * 1000)}"
    snoozed = ", snoozed" if finding["snoozed_until"] else ""
    yield from folded(
        Text(f"{severity:9} ", dict(STYLES).get(severity, "")), f"{finding['title']} (for {since}{snoozed})", width
    )
    yield from folded(Text(" " * 10), finding["cause"], width, "dim")
    for fact in finding["evidence"][:EVIDENCE_SHOWN]:
        yield from folded(Text(" " * 10), f"{fact['label']}: {fact['value']}", width)
    if len(finding["evidence"]) > EVIDENCE_SHOWN:
        yield Text(" " * 10 + f"and {len(finding['evidence']) - EVIDENCE_SHOWN} more", "dim")
    yield from folded(Text(" " * 10), finding["fix"]["text"], width)
    for command in finding["fix"]["commands"]:
        where = "" if command["os"] == "any" else f"  # {command['os']}"
        # Never folded: it is to be copied.
        yield Text(f"{' ' * 12}{clean(command['command'])}{where}")


def _verdict_style(told: Json) -> str:
    severities = {finding["severity"] for finding in told["findings"]}
    return next((style for severity, style in STYLES if severity in severities), "green")
