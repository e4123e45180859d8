"""Finds nodes whose failed attempts were often retried on other nodes: clients only notice a delay."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import NodeId
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each
from herd.health.snapshot import Snapshot
from herd.text import number

RETRIES_MIN = 5
SHARE_MIN = 0.05


def find(snapshot: Snapshot) -> Iterator[Finding]:
    counts: dict[NodeId, list[int]] = {}
    for pair in snapshot.traffic.pairs:
        sums = counts.setdefault(pair.node_id, [0, 0])
        sums[0] += pair.retried
        sums[1] += pair.requests + pair.retried
    unreliable = {
        node_id: (retried, attempts)
        for node_id, (retried, attempts) in counts.items()
        if retried >= max(RETRIES_MIN, SHARE_MIN * attempts)
    }
    if not unreliable:
        return
    yield Finding(
        severity=Severity.WARNING,
        title=f"{names(unreliable)}: many attempts are retried on other nodes",
        cause="The node closed or refused connections, or sent no token in time. Other nodes answered the requests.",
        evidence=tuple(
            Evidence(node_id, f"{retried} of {number(attempts, 'attempt')} retried")
            for node_id, (retried, attempts) in sorted(unreliable.items())
        ),
        remedy="Check the engine's log on that machine for the reason.",
        commands=on_each((node for node in snapshot.nodes if node.id in unreliable), _engine_log),
        nodes=tuple(sorted(unreliable)),
    )


def _engine_log(system: str) -> str:
    if system == "macos":
        return "tail -n 100 ~/.ollama/logs/server.log"
    return (
        'type "%LOCALAPPDATA%\\Ollama\\server.log"' if system == "windows" else "journalctl -u ollama -n 100 --no-pager"
    )


CHECK = Check("retries", "Few attempts are retried", find)
