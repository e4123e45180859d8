"""Health: what is wrong, since when, and what to type. Knows no check; the findings are made elsewhere."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.tabs import Tab


class FactLine(Struct, frozen=True):
    """One piece of evidence, written for a person."""

    label: str
    value: str


class CommandLine(Struct, frozen=True):
    """`os` is "linux", "macos", "windows" or "any"."""

    os: str
    command: str


class FixBox(Struct, frozen=True):
    text: str
    commands: tuple[CommandLine, ...]


class FindingBox(Struct, frozen=True, kw_only=True):
    """One cause, with every node that it struck. `severity`: "critical", "warning" or "info". `since` counts from when it was
    first seen where the check itself cannot know. `snoozed_until` is None unless somebody wants to hear no more of it."""

    finding_id: str
    check: str
    severity: str
    title: str
    since: float
    cause: str
    evidence: tuple[FactLine, ...]
    nodes: tuple[str, ...]
    fix: FixBox
    snoozed_until: float | None
    snooze_reason: str


class PassedLine(Struct, frozen=True):
    check: str
    title: str


class HealthScore(Struct, frozen=True):
    """Snoozed findings count too: silence mends nothing."""

    value: int
    arithmetic: str


class Health(Struct, frozen=True):
    """`GET health`: findings by rank, the worst first; `passed` names the checks that found nothing."""

    at: float
    summary: str
    findings: tuple[FindingBox, ...]
    passed: tuple[PassedLine, ...]
    score: HealthScore


class SnoozeRequest(Struct, frozen=True):
    """`POST health/snooze`: this finding is not to be dwelt on for so long; `hours` 0 ends that."""

    finding_id: str
    hours: float = 24.0
    reason: str = ""


class SnoozeResult(Struct, frozen=True):
    """`until` is None when the finding is to be dwelt on again."""

    finding_id: str
    until: float | None
    reason: str


class NodeUptime(Struct, frozen=True):
    """One letter a stretch of `step_s`, the oldest first: u up, d degraded, o offline, p lent back to its owner or draining, - not known."""

    node_id: str
    range: str
    step_s: float
    from_at: float
    states: str


class UptimeBars(Struct, frozen=True):
    """`GET strips?range=`: "24h", "7d", "30d" or "90d"."""

    range: str
    strips: tuple[NodeUptime, ...]


TAB = Tab(
    "health",
    "Health",
    6,
    (
        DashboardRoute("GET", "health", Health),
        DashboardRoute("POST", "health/snooze", SnoozeResult, SnoozeRequest),
        DashboardRoute("GET", "strips", UptimeBars),
    ),
)
