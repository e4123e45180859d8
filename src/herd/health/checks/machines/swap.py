"""Nodes that page memory out: a model in swap answers a hundred times slower than one in memory."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import Pressure
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import gb

SHARE_MIN = 0.10
"""Of the machine's memory; a little swap is normal, above all on macOS."""
GROWTH_MIN_BYTES = 500_000_000


def find(snapshot: Snapshot) -> Iterator[Finding]:
    paging = [node for node in snapshot.here if _is_paging(node)]
    if not paging:
        return
    yield Finding(
        Severity.WARNING,
        f"{names(node.id for node in paging)}: memory is paged out to disk",
        "What the models and other programs want does not fit into memory together.",
        tuple(
            Evidence(
                f"{node.id} swap used",
                f"{gb(node.report.memory.swap_used_bytes)}, {gb(_growth(node))} more than an hour ago",
            )
            for node in paging
        ),
        "Keep fewer models in memory, or choose smaller quantizations.",
        on_each(paging, variable("OLLAMA_MAX_LOADED_MODELS", "1")),
        tuple(node.id for node in paging),
    )


def _is_paging(node: NodeNow) -> bool:
    """A good share of memory is in swap, and it is growing or the system itself complains."""
    memory = node.report.memory
    if memory.swap_used_bytes < SHARE_MIN * memory.total_bytes:
        return False
    return _growth(node) >= GROWTH_MIN_BYTES or memory.pressure is not Pressure.NORMAL


def _growth(node: NodeNow) -> int:
    return max(0, node.report.memory.swap_used_bytes - node.past[0].swap_used_bytes) if node.past else 0


CHECK = Check("swap", "No node pages models out", find)
