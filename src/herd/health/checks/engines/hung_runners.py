"""Models that take requests and send no token while their node goes on reporting: health by token flow."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, restart
from herd.health.snapshot import Snapshot
from herd.text import number

SILENT_MIN = 3
SHARE_MIN = 0.5


def find(snapshot: Snapshot) -> Iterator[Finding]:
    here = {node.id: node for node in snapshot.here}
    hung = [
        pair
        for pair in snapshot.traffic.pairs
        if pair.node_id in here and pair.silent >= max(SILENT_MIN, SHARE_MIN * pair.completed)
    ]
    if not hung:
        return
    yield Finding(
        Severity.CRITICAL,
        f"{names(pair.model for pair in hung)}: takes requests and says nothing",
        "The engine answers its status page, but the process that runs the model is stuck.",
        tuple(
            Evidence(
                f"{pair.model} on {pair.node_id}",
                f"{number(pair.silent, 'attempt')} without a token, {pair.completed} completed",
            )
            for pair in hung
        ),
        "Start the engine anew.",
        on_each((here[pair.node_id] for pair in hung), restart),
        tuple(sorted({pair.node_id for pair in hung})),
    )


CHECK = Check("hung_runners", "Every model that is asked sends tokens", find)
