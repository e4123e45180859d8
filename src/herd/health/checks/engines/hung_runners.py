"""Finds models that accept requests but send no tokens, although their node sends heartbeats."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, restart
from herd.health.snapshot import Snapshot
from herd.text import number

SILENT_MIN = 3
SHARE_MIN = 0.5


def find(snapshot: Snapshot) -> Iterator[Finding]:
    online = {node.id: node for node in snapshot.online}
    hung = [
        pair
        for pair in snapshot.traffic.pairs
        if pair.node_id in online and pair.silent >= max(SILENT_MIN, SHARE_MIN * pair.completed)
    ]
    if not hung:
        return
    yield Finding(
        severity=Severity.CRITICAL,
        title=f"{names(pair.model for pair in hung)}: no tokens for accepted requests",
        cause="The engine responds to status requests; the process that runs the model probably hangs.",
        evidence=tuple(
            Evidence(
                f"{pair.model} on {pair.node_id}",
                f"{number(pair.silent, 'attempt')} without a token, {pair.completed} completed",
            )
            for pair in hung
        ),
        remedy="Restart the engine.",
        commands=on_each((online[pair.node_id] for pair in hung), restart),
        nodes=tuple(sorted({pair.node_id for pair in hung})),
    )


CHECK = Check("hung_runners", "All models answer", find)
