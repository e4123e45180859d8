"""Finds nodes whose operating system reports memory pressure."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import Pressure
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import largest_processes, names, on_each
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import gb


def find(snapshot: Snapshot) -> Iterator[Finding]:
    for pressure, severity in ((Pressure.CRITICAL, Severity.CRITICAL), (Pressure.WARN, Severity.WARNING)):
        low_memory = [node for node in snapshot.online if node.report.memory.pressure is pressure]
        if low_memory:
            yield _finding(low_memory, pressure, severity)


def _finding(low_memory: list[NodeNow], pressure: Pressure, severity: Severity) -> Finding:
    return Finding(
        severity=severity,
        title=f"{names(node.id for node in low_memory)}: low on memory",
        cause="Programs and models use nearly all memory; "
        + (
            "the node receives no requests until memory is free."
            if pressure is Pressure.CRITICAL
            else "paging may slow models down."
        ),
        evidence=tuple(Evidence(f"{node.id} available", _available(node)) for node in low_memory),
        remedy="Close large programs, or keep fewer models in memory.",
        commands=on_each(low_memory, largest_processes),
        nodes=tuple(node.id for node in low_memory),
        key=pressure.value,
        since=min((since for node in low_memory if (since := _since(node, pressure)) is not None), default=None),
    )


def _available(node: NodeNow) -> str:
    memory = node.report.memory
    return f"{gb(memory.available_bytes)} of {gb(memory.total_bytes)}"


def _since(node: NodeNow, pressure: Pressure) -> float | None:
    since = None
    for sample in reversed(node.samples):
        if sample.pressure is not pressure:
            break
        since = sample.at
    return since


CHECK = Check("memory_pressure", "All nodes have enough memory", find)
