"""Finds models on several nodes where one node does nearly all the work while requests wait."""

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
        nodes = [node for node in snapshot.online if model in node.report.models]
        requests, busy_s = sum(pair.requests for pair in pairs), sum(pair.busy_s for pair in pairs)
        if requests < REQUESTS_MIN or len(nodes) < 2 or not busy_s:
            continue
        busiest = max(pairs, key=lambda pair: pair.busy_s)
        wait_s = sum(pair.waited_s for pair in pairs) / requests
        if busiest.busy_s > SHARE_MAX * busy_s and wait_s >= WAIT_MIN_S:
            yield _finding(
                busiest, busiest.busy_s / busy_s, wait_s, [node for node in nodes if node.id != busiest.node_id]
            )


def _finding(busiest: ModelTraffic, share: float, wait_s: float, others: list[NodeNow]) -> Finding:
    return Finding(
        severity=Severity.INFO,
        title=f"{busiest.model}: {busiest.node_id} does nearly all the work",
        cause="Possible causes: the other nodes are slower, lack memory for the model, or are busy with other models.",
        evidence=(
            Evidence("share of compute time", percent(share)),
            Evidence("mean queue time", duration(1000 * wait_s)),
            Evidence("also on", names(node.id for node in others)),
        ),
        remedy="See why the other nodes were not chosen. The command explains the newest request of any model; "
        "for another request, use its ID.",
        commands=anywhere("herd why last"),
        nodes=(busiest.node_id,),
        key=busiest.model,
    )


CHECK = Check("unbalanced", "Load is balanced", find)
