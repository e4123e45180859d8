"""Nodes that report but cannot be reached, or do not know our key: heartbeats alone do not make a node usable."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names, on_each, restart
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    closed = [node for node in snapshot.here if not node.is_reachable]
    if closed:
        yield Finding(
            Severity.CRITICAL,
            f"{names(node.id for node in closed)}: reports, but refuses our connections",
            "A firewall on that machine, or an engine that has ended.",
            tuple(
                Evidence(node.id, ", ".join(endpoint.url for endpoint in node.report.engines) or "no engine")
                for node in closed
            ),
            "Start the engine, and allow its port.",
            on_each(closed, restart),
            tuple(node.id for node in closed),
            "refused",
        )
    strangers = [node for node in snapshot.here if not node.is_authorized]
    if strangers:
        yield Finding(
            Severity.CRITICAL,
            f"{names(node.id for node in strangers)}: does not know our key",
            "It was paired with another coordinator, or its folder was replaced.",
            tuple(Evidence(node.id, "answers 401") for node in strangers),
            "Let it join again.",
            anywhere("herd nodes invite"),
            tuple(node.id for node in strangers),
            "key",
        )


CHECK = Check("unreachable", "Every node that reports can be reached", find)
