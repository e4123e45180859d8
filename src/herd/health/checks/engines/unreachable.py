"""Finds nodes that send heartbeats but refuse connections, or reject the coordinator's key."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names, on_each, restart
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    closed = [node for node in snapshot.here if not node.is_reachable]
    if closed:
        yield Finding(
            severity=Severity.CRITICAL,
            title=f"{names(node.id for node in closed)}: sends heartbeats but refuses connections",
            cause="A firewall on that machine blocks the engine's port, or the engine has stopped.",
            evidence=tuple(
                Evidence(node.id, ", ".join(endpoint.url for endpoint in node.report.engines) or "no engine")
                for node in closed
            ),
            remedy="Restart the engine, and allow its port in the firewall.",
            commands=on_each(closed, restart),
            nodes=tuple(node.id for node in closed),
            key="refused",
        )
    unauthorized = [node for node in snapshot.here if not node.is_authorized]
    if unauthorized:
        yield Finding(
            severity=Severity.CRITICAL,
            title=f"{names(node.id for node in unauthorized)}: rejects the coordinator's key",
            cause="The node was paired with another coordinator, or its data folder was replaced.",
            evidence=tuple(Evidence(node.id, "answers 401") for node in unauthorized),
            remedy="Pair the node again with a new join code.",
            commands=anywhere("herd nodes invite"),
            nodes=tuple(node.id for node in unauthorized),
            key="key",
        )


CHECK = Check("unreachable", "All online nodes are reachable", find)
