"""Finds models that are loaded again and again, so that requests wait for cold loads."""

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
        severity=Severity.WARNING,
        title=f"{names(pair.model for pair in cold)}: frequent cold loads",
        cause="The engine unloads the model between requests, so the next request waits until it is loaded again.",
        evidence=tuple(
            Evidence(
                f"{pair.model} on {pair.node_id}",
                f"{number(pair.cold_loads, 'cold load')} in {number(pair.completed, 'request')}, "
                f"{duration(1000 * pair.load_s)} of waiting",
            )
            for pair in cold
        ),
        remedy="Let the engine keep models in memory for longer.",
        commands=on_each(nodes, variable("OLLAMA_KEEP_ALIVE", "1h")),
        nodes=tuple(sorted({pair.node_id for pair in cold})),
    )


CHECK = Check("cold_loads", "Models are in memory when requested", find)
