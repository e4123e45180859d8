"""Finds nodes that go offline and come back repeatedly, which delays the requests queued for them."""

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
        severity=Severity.WARNING,
        title=f"{names(node.id for node, _ in flapping)}: repeatedly offline",
        cause="Possible causes: a weak wireless link, a machine that goes to sleep, or an agent that restarts often.",
        evidence=tuple(
            Evidence(f"{node.id} returned", f"{number(returns, 'time')} recently") for node, returns in flapping
        ),
        remedy="Use a network cable, or keep the machine awake.",
        commands=on_each((node for node, _ in flapping), _awake),
        nodes=tuple(node.id for node, _ in flapping),
    )


def _returns(node: NodeNow) -> int:
    """The returns that the coordinator counted recently, or those in the samples of the last hour."""
    was_offline = [sample.liveness is Liveness.OFFLINE for sample in node.samples]
    changes = sum(before != after for before, after in pairwise(was_offline))
    return max(node.returns if node.is_online else 0, changes // 2 if changes >= CHANGES_MIN else 0)


def _awake(system: str) -> str:
    if system == "macos":
        return "caffeinate -s herd-node"
    return "powercfg /change standby-timeout-ac 0" if system == "windows" else "systemd-inhibit --what=sleep herd-node"


CHECK = Check("flapping", "Nodes are stable", find)
