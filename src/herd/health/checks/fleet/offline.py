"""Finds nodes that have been offline for less than a day, and reports all of them in one finding."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot
from herd.text import duration, number

OFFLINE_MAX_S = 86400.0
"""A node that is offline for longer was probably retired."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    offline = [node for node in snapshot.nodes if not node.is_online and node.silent_s < OFFLINE_MAX_S]
    if not offline:
        return
    are_all = not snapshot.online
    yield Finding(
        severity=Severity.CRITICAL if are_all else Severity.WARNING,
        title="All nodes are offline"
        if are_all
        else f"{number(len(offline), 'node')} offline: {names(node.id for node in offline)}",
        cause="Possible causes: the machine is off or asleep, its agent has stopped, or the network is down.",
        evidence=tuple(
            Evidence(f"{node.id} last heartbeat", f"{duration(1000 * node.silent_s)} ago") for node in offline
        ),
        remedy="If the node should be online, wake the machine and start its agent.",
        commands=anywhere("herd-node"),
        nodes=tuple(node.id for node in offline),
        since=snapshot.at - max(node.silent_s for node in offline),
    )


CHECK = Check("offline", "No node went offline in the last day", find)
