"""Lines that are long right now."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot

WAITING_MIN = 4
PER_SLOT = 2


def find(snapshot: Snapshot) -> Iterator[Finding]:
    long = [node for node in snapshot.here if node.pending >= max(WAITING_MIN, PER_SLOT * node.running)]
    if not long:
        return
    yield Finding(
        Severity.INFO,
        f"{names(node.id for node in long)}: a long line",
        "More is asked than that node can do at once.",
        tuple(Evidence(node.id, f"{node.pending} wait, {node.running} run") for node in long),
        "Another node with the same model would share the work.",
        anywhere("herd recommend"),
        tuple(node.id for node in long),
    )


CHECK = Check("queues", "No line is long", find)
