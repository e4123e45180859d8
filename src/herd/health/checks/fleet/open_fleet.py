"""Warns if the fleet is open: it then sends prompts to any machine that reports as a node."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    if not snapshot.is_open:
        return
    yield Finding(
        severity=Severity.WARNING,
        title="Any machine on this network can join",
        cause="FLEET_OPEN is set: any machine that reports as a node receives requests with their prompts.",
        evidence=(Evidence("FLEET_OPEN", "true"), Evidence("nodes", str(len(snapshot.nodes)))),
        remedy="Restart without FLEET_OPEN, and pair nodes with a join code.",
        commands=anywhere("FLEET_OPEN=false herd"),
    )


CHECK = Check("open_fleet", "Nodes must be paired to join", find)
