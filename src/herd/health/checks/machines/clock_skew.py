"""Finds nodes whose clock differs from the coordinator's clock."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, set_clock
from herd.health.snapshot import Snapshot
from herd.text import duration

SKEW_MIN_S = 5.0
SKEW_WARNING_S = 60.0


def find(snapshot: Snapshot) -> Iterator[Finding]:
    skewed = [
        (node, ahead_s)
        for node in snapshot.online
        if (ahead_s := node.clock_ahead_s) is not None and abs(ahead_s) >= SKEW_MIN_S
    ]
    if not skewed:
        return
    worst_s = max(abs(ahead_s) for _, ahead_s in skewed)
    yield Finding(
        severity=Severity.WARNING if worst_s >= SKEW_WARNING_S else Severity.INFO,
        title=f"{names(node.id for node, _ in skewed)}: wrong clock",
        cause="The times in logs cannot be compared. If all nodes are listed, the coordinator's clock is wrong.",
        evidence=tuple(
            Evidence(node.id, f"{duration(1000 * abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}")
            for node, ahead_s in skewed
        ),
        remedy="Synchronize the clock with the network.",
        commands=on_each((node for node, _ in skewed), set_clock),
        nodes=tuple(node.id for node, _ in skewed),
    )


CHECK = Check("clock_skew", "Clocks agree", find)
