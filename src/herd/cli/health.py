"""Shows the fleet's problems, worst first, with evidence and the commands that fix them (`herd health`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import MappingProxyType

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.terminal import console, printable, show, wrapped
from herd.text import duration, number

PATH = "/dashboard/api/v1/health"
SEVERITY_STYLES = MappingProxyType({"critical": "bold red", "warning": "yellow", "info": "cyan"})
EVIDENCE_SHOWN = 6


def health(coordinator: CoordinatorClient, as_json: bool, everything: bool = False) -> bool:
    """Whether nothing is critical. `everything` also shows the checks that passed."""
    answer = coordinator.get(PATH)
    show(answer, as_json, lambda found: lines(found, console.width, time.time(), everything))
    return all(one["severity"] != "critical" for one in answer["findings"])


def lines(answer: Json, width: int, now: float, everything: bool) -> Iterator[Text]:
    for finding in answer["findings"]:
        yield from _finding(finding, width, now)
    if everything:
        for passed in answer["passed"]:
            yield from wrapped(Text("ok        ", "green"), f"{passed['title']} ({passed['check']})", width)
    passed_count = f"{number(len(answer['passed']), 'check')} passed."
    summary = f"{answer['summary']} {passed_count} Health score: {answer['score']['arithmetic']}"
    yield from wrapped(Text(), summary, width, _summary_style(answer))


def _finding(finding: Json, width: int, now: float) -> Iterator[Text]:
    severity = str(finding["severity"])
    since = f"{duration(max(0.0, now - finding['since']) * 1000)}"
    snoozed = ", snoozed" if finding["snoozed_until"] else ""
    style = SEVERITY_STYLES.get(severity, "")
    yield from wrapped(Text(f"{severity:9} ", style), f"{finding['title']} (for {since}{snoozed})", width)
    yield from wrapped(Text(" " * 10), finding["cause"], width, "dim")
    for fact in finding["evidence"][:EVIDENCE_SHOWN]:
        yield from wrapped(Text(" " * 10), f"{fact['label']}: {fact['value']}", width)
    if len(finding["evidence"]) > EVIDENCE_SHOWN:
        yield Text(" " * 10 + f"and {len(finding['evidence']) - EVIDENCE_SHOWN} more", "dim")
    yield from wrapped(Text(" " * 10), finding["fix"]["text"], width)
    for command in finding["fix"]["commands"]:
        system = "" if command["os"] == "any" else f"  # {command['os']}"
        # Never wrapped: the command is to be copied.
        yield Text(f"{' ' * 12}{printable(command['command'])}{system}")


def _summary_style(answer: Json) -> str:
    severities = {finding["severity"] for finding in answer["findings"]}
    return next((style for severity, style in SEVERITY_STYLES.items() if severity in severities), "green")
