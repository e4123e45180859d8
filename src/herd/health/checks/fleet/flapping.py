"""Nodes that come and go: each return costs requests that were waiting for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from herd.core.state.fleet import Liveness
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import number

RETURNS_MIN = 2
CHANGES_MIN = 4


def find(snapshot: Snapshot) -> Iterator[Finding]:
    flapping = [(node, _returns(node)) for node in snapshot.nodes]
    flapping = [(node, returns) for node, returns in flapping if returns >= RETURNS_MIN]
    if not flapping:
        return
    yield Finding(
        Severity.WARNING,
        f"{names(node.id for node, _ in flapping)}: comes and goes",
        "A weak wireless link, a machine that falls asleep, or an agent that is restarted over and over.",
        tuple(Evidence(f"{node.id} returned", f"{number(returns, 'time')} of late") for node, returns in flapping),
        "Use a cable, or keep the machine awake while it serves.",
        on_each((node for node, _ in flapping), _awake),
        tuple(node.id for node, _ in flapping),
    )


def _returns(node: NodeNow) -> int:
    """What we count of late, or what an hour's samples show."""
    seen = [sample.liveness is Liveness.OFFLINE for sample in node.past]
    changes = sum(was != now for was, now in pairwise(seen))
    return max(node.returns if node.is_here else 0, changes // 2 if changes >= CHANGES_MIN else 0)


def _awake(system: str) -> str:
    if system == "macos":
        return "caffeinate -s herd-node"
    return "powercfg /change standby-timeout-ac 0" if system == "windows" else "systemd-inhibit --what=sleep herd-node"


CHECK = Check("flapping", "No node comes and goes", find)
