"""Finds nodes whose queues are long now."""

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
        severity=Severity.INFO,
        title=f"{names(node.id for node in long)}: long queue",
        cause="More requests arrive than the node can process.",
        evidence=tuple(Evidence(node.id, f"{node.pending} queued, {node.running} running") for node in long),
        remedy="Add the model to another node, which then shares the load.",
        commands=anywhere("herd recommend"),
        nodes=tuple(node.id for node in long),
    )


CHECK = Check("queues", "Queues are short", find)
