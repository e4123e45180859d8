"""Disks that are nearly full, or will be soon at the speed at which they fill."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import duration, gb

FREE_SHARE_MIN = 0.05
FREE_MIN_BYTES = 10_000_000_000
"""About the size of a common model, and of the second copy that a pull needs."""
SOON_S = 24 * 3600.0
SPAN_MIN_S = 1200.0
"""Two samples closer together tell no speed."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    full = [node for node in snapshot.here if _is_full(node)]
    if full:
        yield _finding(
            full,
            "full",
            f"{names(node.id for node in full)}: the disk is almost full",
            "Pulls need room for a second copy, and fail without it.",
        )
    filling = [node for node in snapshot.here if node not in full and _full_in_s(node) < SOON_S]
    if filling:
        yield _finding(
            filling,
            "filling",
            f"{names(node.id for node in filling)}: the disk fills up",
            "At the speed of the last hour it is full within a day.",
        )


def _finding(nodes: list[NodeNow], key: str, title: str, cause: str) -> Finding:
    unused = {name: card.name for node in nodes for name, card in node.report.models.items() if card.loaded is None}
    largest = max(
        unused,
        key=lambda name: max(node.report.models[name].size_bytes for node in nodes if name in node.report.models),
        default=None,
    )
    command = f"ollama rm {shlex.quote(unused[largest])}" if largest is not None else "ollama list"
    return Finding(
        Severity.WARNING,
        title,
        cause,
        tuple(Evidence(f"{node.id} free", _told(node)) for node in nodes),
        "Remove models that nobody asks for; the largest that is not in memory is named here.",
        anywhere(command),
        tuple(node.id for node in nodes),
        key,
    )


def _is_full(node: NodeNow) -> bool:
    disk = node.report.disk
    return (
        disk is not None
        and disk.total_bytes > 0
        and disk.available_bytes < min(FREE_MIN_BYTES, FREE_SHARE_MIN * disk.total_bytes)
    )


def _full_in_s(node: NodeNow) -> float:
    disk, past = node.report.disk, [sample for sample in node.past if sample.disk_free_bytes is not None]
    if disk is None or not past or past[-1].at - past[0].at < SPAN_MIN_S:
        return math.inf
    eaten = (past[0].disk_free_bytes or 0) - disk.available_bytes
    return disk.available_bytes / eaten * (past[-1].at - past[0].at) if eaten > 0 else math.inf


def _told(node: NodeNow) -> str:
    disk, left_s = node.report.disk, _full_in_s(node)
    assert disk is not None
    soon = f", full in {duration(1000 * left_s)}" if left_s < SOON_S else ""
    return f"{gb(disk.available_bytes)} of {gb(disk.total_bytes)}{soon}"


CHECK = Check("disk_full", "Every disk has room for another model", find)
