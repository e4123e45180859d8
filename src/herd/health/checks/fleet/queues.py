"""Finds nodes whose queues are long now."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot

PENDING_MIN = 4
PENDING_PER_RUNNING = 2


def find(snapshot: Snapshot) -> Iterator[Finding]:
    long_queues = [
        node for node in snapshot.online if node.pending >= max(PENDING_MIN, PENDING_PER_RUNNING * node.running)
    ]
    if not long_queues:
        return
    yield Finding(
        severity=Severity.INFO,
        title=f"{names(node.id for node in long_queues)}: long queue",
        cause="More requests arrive than the node can process.",
        evidence=tuple(Evidence(node.id, f"{node.pending} queued, {node.running} running") for node in long_queues),
        remedy="Add a frequently requested model of this node to another node; the command recommends which.",
        commands=anywhere("herd recommend"),
        nodes=tuple(node.id for node in long_queues),
    )


CHECK = Check("queues", "Queues are short", find)
