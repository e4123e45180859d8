"""Requests that had to wait for their model to be loaded, and what that cost."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import Snapshot
from herd.text import duration, number

COUNT_MIN = 5
SHARE_MIN = 0.10


def find(snapshot: Snapshot) -> Iterator[Finding]:
    cold = [
        pair
        for pair in snapshot.traffic.pairs
        if pair.cold_loads >= COUNT_MIN and pair.cold_loads >= SHARE_MIN * pair.completed
    ]
    if not cold:
        return
    cold.sort(key=lambda pair: -pair.load_s)
    nodes = [node for node in snapshot.nodes if node.id in {pair.node_id for pair in cold}]
    yield Finding(
        Severity.WARNING,
        f"{names(pair.model for pair in cold)}: loaded again and again",
        "The engine drops the model between requests, so the next one waits for the disk.",
        tuple(
            Evidence(
                f"{pair.model} on {pair.node_id}",
                f"{number(pair.cold_loads, 'load')}, {duration(1000 * pair.load_s)} waited, of {number(pair.completed, 'request')}",
            )
            for pair in cold
        ),
        "Have the engine keep models longer.",
        on_each(nodes, variable("OLLAMA_KEEP_ALIVE", "1h")),
        tuple(sorted({pair.node_id for pair in cold})),
    )


CHECK = Check("cold_loads", "Models are in memory when they are asked for", find)
