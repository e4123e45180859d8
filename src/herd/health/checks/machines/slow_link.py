"""Nodes whose first byte comes later than their engine explains: the way there is slow."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import NodeId
from herd.health import Check, Command, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot
from herd.text import duration

COUNT_MIN = 5
EXTRA_MIN_S = 0.3


def find(snapshot: Snapshot) -> Iterator[Finding]:
    sums: dict[NodeId, list[float]] = {}
    for pair in snapshot.traffic.pairs:
        if pair.link_s is not None:
            of_node = sums.setdefault(pair.node_id, [0.0, 0])
            of_node[0] += pair.link_s * pair.link_count
            of_node[1] += pair.link_count
    slow = {
        node_id: total / count
        for node_id, (total, count) in sums.items()
        if count >= COUNT_MIN and total / count >= EXTRA_MIN_S
    }
    if not slow:
        return
    yield Finding(
        Severity.WARNING,
        f"The way to {names(slow)} is slow",
        "A weak wireless link, a busy switch, or a sleeping network card.",
        tuple(
            Evidence(f"{node_id} beyond load and prompt", f"{duration(1000 * extra_s)} a request")
            for node_id, extra_s in sorted(slow.items())
        ),
        "Use a cable, and look at how long the way is.",
        _ways(snapshot, slow),
        tuple(sorted(slow)),
    )


def _ways(snapshot: Snapshot, slow: dict[NodeId, float]) -> tuple[Command, ...]:
    addresses = sorted({node.report.lan_ip for node in snapshot.nodes if node.id in slow and node.report.lan_ip})
    return tuple(command for address in addresses for command in anywhere(f"ping {address}"))


CHECK = Check("slow_link", "First bytes come as soon as engines send them", find)
