"""The coordinator's own books: what the audit found that should never be."""

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
        Severity.CRITICAL,
        "The coordinator's books do not agree",
        "A request was lost track of: this is a bug in the coordinator.",
        (Evidence("alarms since the start", number(snapshot.alarms, "alarm")),),
        "A restart mends it for now; please report the lines that say 'internal invariant violated'.",
        anywhere("grep 'should never be' ~/.fleet-manager/logs/herd.jsonl"),
        since=snapshot.alarmed_at,
    )


CHECK = Check("zombies", "No request is lost track of", find)
