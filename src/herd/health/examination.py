"""Runs every check over one snapshot: findings by rank, what passed, a score with its arithmetic. Knows no check by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from herd.health import Check, Finding, Severity
from herd.health.snapshot import Snapshot

FULL_SCORE = 100
_COST = ((Severity.CRITICAL, 25), (Severity.WARNING, 10), (Severity.INFO, 2))
"""Points that a finding of each severity takes from a hundred."""
FINDINGS_MAX = 200
"""Findings told at most, the worst first: more nobody reads."""


@dataclass(frozen=True, slots=True)
class NamedFinding:
    """A finding under the name by which it is known from one look to the next."""

    id: str
    check: str
    since: float
    finding: Finding


@dataclass(frozen=True, slots=True)
class Examination:
    """`passed` are checks that found nothing, with what they say then."""

    at: float
    findings: tuple[NamedFinding, ...]
    passed: tuple[tuple[str, str], ...]
    score: int
    arithmetic: str
    summary: str


def examine(checks: Sequence[Check], snapshot: Snapshot, known_since: Mapping[str, float]) -> Examination:
    """`known_since`: when findings of earlier looks were first found, by their id."""
    named: list[NamedFinding] = []
    passed: list[tuple[str, str]] = []
    for check in checks:
        found = list(check.find(snapshot))
        named += (_named(check, finding, snapshot.at, known_since) for finding in found)
        if not found:
            passed.append((check.name, check.passed))
    ranks = {severity: at for at, (severity, _) in enumerate(_COST)}
    named.sort(key=lambda one: (ranks[one.finding.severity], -len(one.finding.nodes), one.since, one.id))
    score, arithmetic = _score(one.finding.severity for one in named)
    return Examination(snapshot.at, tuple(named[:FINDINGS_MAX]), tuple(passed), score, arithmetic, _summary(named))


def _named(check: Check, finding: Finding, at: float, known_since: Mapping[str, float]) -> NamedFinding:
    key = f"{check.name}:{finding.key}" if finding.key else check.name
    since = finding.since if finding.since is not None else known_since.get(key, at)
    return NamedFinding(key, check.name, since, finding)


def _score(severities: Iterable[Severity]) -> tuple[int, str]:
    """100 less what each finding costs, never below 0; and how that was reckoned."""
    found = list(severities)
    terms, total = [str(FULL_SCORE)], FULL_SCORE
    for severity, cost in _COST:
        count = found.count(severity)
        if count:
            terms.append(f"{count * cost} ({count} {severity.value} x {cost})")
            total -= count * cost
    if total == FULL_SCORE:
        return FULL_SCORE, f"{FULL_SCORE}: nothing is wrong"
    floor = ", not below 0" if total < 0 else ""
    return max(0, total), " - ".join(terms) + f" = {max(0, total)}{floor}"


def _summary(named: Sequence[NamedFinding]) -> str:
    urgent = sum(one.finding.severity is not Severity.INFO for one in named)
    if not urgent:
        return "Nothing needs attention." if not named else f"Nothing is wrong; {len(named)} to know."
    return f"{urgent} thing needs attention." if urgent == 1 else f"{urgent} things need attention."
