"""Defines the answers of the health page: findings and fixes, passed checks, the health score, snoozes, and uptime."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.pages import Page


class FactLine(Struct, frozen=True):
    """One piece of evidence as display text."""

    label: str
    value: str


class CommandLine(Struct, frozen=True):
    """`os` is "linux", "macos", "windows" or "any"."""

    os: str
    command: str


class FixDetails(Struct, frozen=True):
    text: str
    commands: tuple[CommandLine, ...]


class FindingDetails(Struct, frozen=True, kw_only=True):
    """One problem with all nodes that it affects. `severity`: "critical", "warning" or "info". `since` is when the
    problem began, or when it was first seen where the check cannot know that. `snoozed_until` is None unless the
    finding is snoozed."""

    finding_id: str
    check: str
    severity: str
    title: str
    since: float
    cause: str
    evidence: tuple[FactLine, ...]
    nodes: tuple[str, ...]
    fix: FixDetails
    snoozed_until: float | None
    snooze_reason: str


class PassedLine(Struct, frozen=True):
    check: str
    title: str


class HealthScore(Struct, frozen=True):
    """Snoozed findings reduce the score too, because snoozing fixes nothing."""

    value: int
    arithmetic: str


class Health(Struct, frozen=True):
    """`GET health`: findings, most severe first; `passed` has the checks without a finding."""

    at: float
    summary: str
    findings: tuple[FindingDetails, ...]
    passed: tuple[PassedLine, ...]
    score: HealthScore


class SnoozeRequest(Struct, frozen=True):
    """`POST health/snooze`: hides a finding for `hours`; 0 ends the snooze."""

    finding_id: str
    hours: float = 24.0
    reason: str = ""


class SnoozeResult(Struct, frozen=True):
    """`until` is None if the snooze was ended."""

    finding_id: str
    until: float | None
    reason: str


class NodeUptime(Struct, frozen=True):
    """`states` has one letter for each interval of `step_s`, oldest first: u up, d degraded, o offline, p paused or
    draining, - unknown."""

    node_id: str
    range: str
    step_s: float
    from_at: float
    states: str


class UptimeBars(Struct, frozen=True):
    """`GET strips?range=`: "24h", "7d", "30d" or "90d"."""

    range: str
    strips: tuple[NodeUptime, ...]


PAGE = Page(
    "health",
    "Health",
    6,
    (
        DashboardRoute("GET", "health", Health),
        DashboardRoute("POST", "health/snooze", SnoozeResult, SnoozeRequest),
        DashboardRoute("GET", "strips", UptimeBars),
    ),
)
