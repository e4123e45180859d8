"""Whether strangers may join: an open fleet sends people's prompts to any machine that says it is a node."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    if not snapshot.is_open:
        return
    yield Finding(
        Severity.WARNING,
        "Every machine on this network may join",
        "FLEET_OPEN is set: whoever reports a node is sent people's requests.",
        (Evidence("FLEET_OPEN", "true"), Evidence("nodes now", str(len(snapshot.nodes)))),
        "Start without it, and let machines in by code.",
        anywhere("FLEET_OPEN=false herd"),
    )


CHECK = Check("open_fleet", "Machines join only when they are let in", find)
