"""Finds nodes whose disk is almost full, or will be full within a day."""

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
"""About twice the size of a common model: a download temporarily needs that much."""
SOON_S = 24 * 3600.0
SPAN_MIN_S = 1200.0
"""Samples must span at least this time to compute a rate."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    full = [node for node in snapshot.online if _is_full(node)]
    if full:
        yield _finding(
            full,
            "full",
            f"{names(node.id for node in full)}: disk almost full",
            "A download temporarily needs twice the model's size, and fails if the disk is full.",
        )
    filling = [node for node in snapshot.online if node not in full and _full_in_s(node) < SOON_S]
    if filling:
        yield _finding(
            filling,
            "filling",
            f"{names(node.id for node in filling)}: disk full within a day",
            "The estimate assumes that the disk fills up at the rate of the last hour.",
        )


def _finding(nodes: list[NodeNow], key: str, title: str, cause: str) -> Finding:
    unused = [
        (model_info.size_bytes, model_info.name, node.id)
        for node in nodes
        for model_info in node.report.models.values()
        if model_info.loaded is None
    ]
    _, model, node_id = max(unused, default=(0, "", ""))
    command = f"herd rm {shlex.quote(model)} --node {shlex.quote(node_id)}" if unused else "herd models"
    return Finding(
        severity=Severity.WARNING,
        title=title,
        cause=cause,
        evidence=tuple(Evidence(f"{node.id} free", _free(node)) for node in nodes),
        remedy="Delete unused models. The command names the largest one that is not in memory.",
        commands=anywhere(command),
        nodes=tuple(node.id for node in nodes),
        key=key,
    )


def _is_full(node: NodeNow) -> bool:
    disk = node.report.disk
    return (
        disk is not None
        and disk.total_bytes > 0
        and disk.available_bytes < min(FREE_MIN_BYTES, FREE_SHARE_MIN * disk.total_bytes)
    )


def _full_in_s(node: NodeNow) -> float:
    disk, samples = node.report.disk, [sample for sample in node.samples if sample.disk_free_bytes is not None]
    if disk is None or not samples or samples[-1].at - samples[0].at < SPAN_MIN_S:
        return math.inf
    used = (samples[0].disk_free_bytes or 0) - disk.available_bytes
    return disk.available_bytes / used * (samples[-1].at - samples[0].at) if used > 0 else math.inf


def _free(node: NodeNow) -> str:
    disk, left_s = node.report.disk, _full_in_s(node)
    assert disk is not None
    soon = f", full in {duration(1000 * left_s)}" if left_s < SOON_S else ""
    return f"{gb(disk.available_bytes)} of {gb(disk.total_bytes)}{soon}"


CHECK = Check("disk_full", "All disks have space for another model", find)
