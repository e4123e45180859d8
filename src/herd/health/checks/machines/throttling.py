"""Finds nodes whose CPU or GPU is throttled because of heat."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import percent

SHARE_MIN = 0.25
"""Share of the last hour's samples: a short peak is normal."""
SAMPLES_MIN = 4


def find(snapshot: Snapshot) -> Iterator[Finding]:
    throttled = [node for node in snapshot.online if _is_throttled(node)]
    if not throttled:
        return
    yield Finding(
        severity=Severity.WARNING,
        title=f"{names(node.id for node in throttled)}: throttled because of heat",
        cause="The processor is too hot and runs slower to cool down. Answers take longer.",
        evidence=tuple(fact for node in throttled for fact in _facts(node)),
        remedy="Improve the cooling, or reduce the load on this machine.",
        commands=on_each(throttled, _sensor_command),
        nodes=tuple(node.id for node in throttled),
    )


def _is_throttled(node: NodeNow) -> bool:
    if node.report.thermal_state in ("", "unknown", "nominal"):
        return False
    return len(node.samples) < SAMPLES_MIN or _share(node) >= SHARE_MIN


def _share(node: NodeNow) -> float:
    return sum(sample.is_hot for sample in node.samples) / len(node.samples)


def _facts(node: NodeNow) -> Iterator[Evidence]:
    if node.report.temperature_c is not None:
        yield Evidence(f"{node.id} temperature", f"{node.report.temperature_c:.0f} °C")
    if node.samples:
        yield Evidence(f"{node.id} throttled", f"{percent(_share(node))} of the last hour")


def _sensor_command(system: str) -> str:
    return {"macos": "pmset -g therm", "windows": "powercfg /energy"}.get(system, "sensors")


CHECK = Check("throttling", "No node is throttled", find)
