"""Reports invariant violations that the coordinator found in its own state."""

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
        title="Invariant violations in the coordinator",
        cause="The coordinator found a contradiction in its own state. This is a bug in herd.",
        evidence=(Evidence("since the coordinator started", number(snapshot.alarms, "violation")),),
        remedy="Restart the coordinator, and report the log lines that the command finds.",
        commands=anywhere("grep 'internal invariant violated' ~/.fleet-manager/logs/herd.jsonl"),
        since=snapshot.alarmed_at,
    )


CHECK = Check("zombies", "No invariant violations", find)
