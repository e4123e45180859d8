"""Defines a health check and the findings that it returns for a snapshot of the fleet.

Checks are pure functions. Times are unix seconds, sizes bytes, durations seconds. Each file in `checks/` is one check,
found by `discover`. A finding names one cause and lists all affected nodes: ten nodes with the same problem are one
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from herd.core.state.fleet import NodeId
from herd.health.snapshot import Snapshot


class Severity(Enum):
    """CRITICAL: requests fail or the fleet is insecure. WARNING: that may happen soon, or costs much time. INFO: worth
    knowing."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence: what was measured, and the value with its unit."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command that helps. `os` is "linux", "macos" or "windows", or "any" if the command is the same on all
    systems."""

    os: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One cause. `key` distinguishes the causes of one check (a model, a version); it is empty if the check has only
    one.

    `since` is None if the check cannot know it: then the time of the first finding is used.
    """

    severity: Severity
    title: str
    cause: str
    evidence: tuple[Evidence, ...]
    remedy: str
    commands: tuple[Command, ...]
    nodes: tuple[NodeId, ...] = ()
    key: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """`passed` is shown when `find` yields nothing, e.g. "Clocks agree"."""

    name: str
    passed: str
    find: Callable[[Snapshot], Iterable[Finding]]
