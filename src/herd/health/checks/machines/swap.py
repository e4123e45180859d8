"""Finds nodes that swap memory to disk: a model in swap answers about a hundred times slower."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import Pressure
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import gb

SHARE_MIN = 0.10
"""Share of the machine's memory; some swap is normal, especially on macOS."""
GROWTH_MIN_BYTES = 500_000_000


def find(snapshot: Snapshot) -> Iterator[Finding]:
    swapping = [node for node in snapshot.online if _is_swapping(node)]
    if not swapping:
        return
    yield Finding(
        severity=Severity.WARNING,
        title=f"{names(node.id for node in swapping)}: memory is swapped to disk",
        cause="Models and other programs together need more memory than the machine has.",
        evidence=tuple(
            Evidence(
                f"{node.id} swap used",
                f"{gb(node.report.memory.swap_used_bytes)}, {gb(_growth(node))} more than an hour ago",
            )
            for node in swapping
        ),
        remedy="Keep fewer models in memory, or choose smaller quantizations.",
        commands=on_each(swapping, variable("OLLAMA_MAX_LOADED_MODELS", "1")),
        nodes=tuple(node.id for node in swapping),
    )


def _is_swapping(node: NodeNow) -> bool:
    """A large share of memory is in swap, and swap grows or the system reports memory pressure."""
    memory = node.report.memory
    if memory.swap_used_bytes < SHARE_MIN * memory.total_bytes:
        return False
    return _growth(node) >= GROWTH_MIN_BYTES or memory.pressure is not Pressure.NORMAL


def _growth(node: NodeNow) -> int:
    return max(0, node.report.memory.swap_used_bytes - node.samples[0].swap_used_bytes) if node.samples else 0


CHECK = Check("swap", "No node swaps memory to disk", find)
