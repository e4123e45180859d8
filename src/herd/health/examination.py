"""Runs all checks over one snapshot, and sums up findings, passed checks and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from herd.health import Check, Finding, Severity
from herd.health.snapshot import Snapshot
from herd.text import number

FULL_SCORE = 100
_COST = ((Severity.CRITICAL, 25), (Severity.WARNING, 10), (Severity.INFO, 2))
"""Points that each finding of a severity costs."""
_NOUNS = MappingProxyType({Severity.CRITICAL: "critical finding", Severity.WARNING: "warning", Severity.INFO: "note"})
FINDINGS_MAX = 200
"""Maximum number of findings to return, most severe first."""


@dataclass(frozen=True, slots=True)
class NamedFinding:
    """A finding with an id that stays the same from one examination to the next."""

    id: str
    check: str
    since: float
    finding: Finding


@dataclass(frozen=True, slots=True)
class Examination:
    """`passed` has the checks without findings: name and sentence. `arithmetic` explains the score."""

    at: float
    findings: tuple[NamedFinding, ...]
    passed: tuple[tuple[str, str], ...]
    score: int
    arithmetic: str
    summary: str


def examine(checks: Sequence[Check], snapshot: Snapshot, known_since: Mapping[str, float]) -> Examination:
    """`known_since` has the time of the first finding by id, from earlier examinations."""
    named: list[NamedFinding] = []
    passed: list[tuple[str, str]] = []
    for check in checks:
        found = list(check.find(snapshot))
        named += (_named(check, finding, snapshot.at, known_since) for finding in found)
        if not found:
            passed.append((check.name, check.passed))
    ranks = {severity: at for at, (severity, _) in enumerate(_COST)}
    named.sort(key=lambda one: (ranks[one.finding.severity], -len(one.finding.nodes), one.since, one.id))
    score, arithmetic = _score([one.finding.severity for one in named])
    return Examination(
        snapshot.at, tuple(named[:FINDINGS_MAX]), tuple(passed), score, arithmetic, _summary(named, snapshot)
    )


def _named(check: Check, finding: Finding, at: float, known_since: Mapping[str, float]) -> NamedFinding:
    key = f"{check.name}:{finding.key}" if finding.key else check.name
    since = finding.since if finding.since is not None else known_since.get(key, at)
    return NamedFinding(key, check.name, since, finding)


def _score(severities: Sequence[Severity]) -> tuple[int, str]:
    """100 minus the cost of all findings, at least 0; and its explanation, such as `80/100 (2 warnings)`."""
    counts = [(severity, cost, severities.count(severity)) for severity, cost in _COST]
    score = max(0, FULL_SCORE - sum(cost * count for _, cost, count in counts))
    found = ", ".join(number(count, _NOUNS[severity]) for severity, _, count in counts if count)
    return score, f"{score}/{FULL_SCORE} ({found or 'no findings'})"


def _summary(named: Sequence[NamedFinding], snapshot: Snapshot) -> str:
    if not named and not snapshot.nodes:
        return "No nodes to check."
    urgent = sum(one.finding.severity is not Severity.INFO for one in named)
    if not urgent:
        return "No problems found." if not named else f"No problems found; {number(len(named), 'note')}."
    return f"{number(urgent, 'problem')} found."
