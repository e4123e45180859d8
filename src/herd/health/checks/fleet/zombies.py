"""Reports inconsistencies that the coordinator found in its own internal state."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere
from herd.health.snapshot import Snapshot
from herd.text import number


def find(snapshot: Snapshot) -> Iterator[Finding]:
    if not snapshot.alarms:
        return
    yield Finding(
        severity=Severity.CRITICAL,
        title="Internal state is inconsistent",
        cause="The coordinator lost track of a request. This is a bug in herd.",
        evidence=(Evidence("alarms since the start", number(snapshot.alarms, "alarm")),),
        remedy="Restart the coordinator, and report the log lines that the command finds.",
        commands=anywhere("grep 'internal invariant violated' ~/.fleet-manager/logs/herd.jsonl"),
        since=snapshot.alarmed_at,
    )


CHECK = Check("zombies", "Internal state is consistent", find)
