"""What is wrong with a fleet: the contract of a check and the finding it returns. Pure: a frozen snapshot in, findings out.

Knows no database, no clock and no HTTP. Times are unix seconds, sizes bytes, durations seconds. One check is one file in
`checks/`, found by `discover`; a check names a cause once and lists the nodes it struck, so ten nodes with one mistake are one
finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from herd.core.state.fleet import NodeId
from herd.health.snapshot import Snapshot


class Severity(Enum):
    """Requests are lost or strangers come in; it will come to that, or costs much; worth knowing."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence, as a person reads it: what, and the number with its unit."""

    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Command:
    """What to type. `os` is "linux", "macos", "windows", or "any" where it does not matter."""

    os: str
    command: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause. `key` tells causes of one check apart (a model, a version); empty where it can only have one. `since` is None
    where the check cannot know: then it counts from when it was first found."""

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
    """`passed` is told when `find` yields nothing ("The clocks agree")."""

    name: str
    passed: str
    find: Callable[[Snapshot], Iterable[Finding]]
