"""Nodes that have fallen silent, and for how long. A machine that was switched off is no fault: it is told once, for all."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot
from herd.text import duration, number

FRESH_S = 86400.0
"""A node that was silent for longer is probably gone for good."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    gone = [node for node in snapshot.nodes if not node.is_here and node.silent_s < FRESH_S]
    if not gone:
        return
    nobody_left = not snapshot.here
    yield Finding(
        Severity.CRITICAL if nobody_left else Severity.WARNING,
        "No node reports any more"
        if nobody_left
        else f"{number(len(gone), 'node')} offline: {names(node.id for node in gone)}",
        "No heartbeat has come from there: the machine is off or asleep, its agent has ended, or the network is cut.",
        tuple(Evidence(f"{node.id} last heard", f"{duration(1000 * node.silent_s)} ago") for node in gone),
        "If it should be there, wake it and start its agent.",
        anywhere("herd-node"),
        tuple(node.id for node in gone),
        since=snapshot.at - max(node.silent_s for node in gone),
    )


CHECK = Check("offline", "Every node reports", find)
