"""Finds nodes with a slow network link: the first byte arrives later than load and prefill explain."""

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
            sums_of_node = sums.setdefault(pair.node_id, [0.0, 0])
            sums_of_node[0] += pair.link_s * pair.link_count
            sums_of_node[1] += pair.link_count
    slow = {
        node_id: total / count
        for node_id, (total, count) in sums.items()
        if count >= COUNT_MIN and total / count >= EXTRA_MIN_S
    }
    if not slow:
        return
    yield Finding(
        severity=Severity.WARNING,
        title=f"Slow network link to {names(slow)}",
        cause="Possible causes: a weak wireless link, a busy switch, or a network card in power-saving mode.",
        evidence=tuple(
            Evidence(f"{node_id} delay beyond load and prefill", f"{duration(1000 * extra_s)} per request")
            for node_id, extra_s in sorted(slow.items())
        ),
        remedy="Use a network cable, and measure the round-trip time.",
        commands=_pings(snapshot, slow),
        nodes=tuple(sorted(slow)),
    )


def _pings(snapshot: Snapshot, slow: dict[NodeId, float]) -> tuple[Command, ...]:
    addresses = sorted({node.report.lan_ip for node in snapshot.nodes if node.id in slow and node.report.lan_ip})
    return tuple(command for address in addresses for command in anywhere(f"ping {address}"))


CHECK = Check("slow_link", "Network links are fast", find)
