"""Models with several homes where one node does nearly all the work and requests wait."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import ModelTraffic, NodeNow, Snapshot
from herd.text import duration, percent

SHARE_MAX = 0.85
WAIT_MIN_S = 1.0
REQUESTS_MIN = 20


def find(snapshot: Snapshot) -> Iterator[Finding]:
    for model in sorted({pair.model for pair in snapshot.traffic.pairs}):
        pairs = [pair for pair in snapshot.traffic.pairs if pair.model == model]
        homes = [node for node in snapshot.here if model in node.report.models]
        requests, busy_s = sum(pair.requests for pair in pairs), sum(pair.busy_s for pair in pairs)
        if requests < REQUESTS_MIN or len(homes) < 2 or not busy_s:
            continue
        most = max(pairs, key=lambda pair: pair.busy_s)
        wait_s = sum(pair.waited_s for pair in pairs) / requests
        if most.busy_s > SHARE_MAX * busy_s and wait_s >= WAIT_MIN_S:
            yield _finding(most, most.busy_s / busy_s, wait_s, [node for node in homes if node.id != most.node_id])


def _finding(most: ModelTraffic, share: float, wait_s: float, idle: list[NodeNow]) -> Finding:
    return Finding(
        Severity.INFO,
        f"{most.model}: {most.node_id} does nearly all the work",
        "Others have the model, but are slower, lack memory for it, or are kept for other work.",
        (
            Evidence("share of the busy time", percent(share)),
            Evidence("mean wait", duration(1000 * wait_s)),
            Evidence("also on", names(node.id for node in idle)),
        ),
        "See what speaks against the others for the newest request.",
        anywhere("herd why last"),
        (most.node_id,),
        most.model,
    )


CHECK = Check("unbalanced", "Work is shared where it can be", find)
