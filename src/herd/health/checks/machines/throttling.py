"""Nodes whose processor is slowed by its heat."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import percent

SHARE_MIN = 0.25
"""Of the last hour's samples: a short peak is what fans are for."""
SAMPLES_MIN = 4


def find(snapshot: Snapshot) -> Iterator[Finding]:
    hot = [node for node in snapshot.here if _is_throttled(node)]
    if not hot:
        return
    yield Finding(
        Severity.WARNING,
        f"{names(node.id for node in hot)}: slowed by heat",
        "The processor has become too hot and runs slower to cool down; answers from there take longer.",
        tuple(fact for node in hot for fact in _facts(node)),
        "Give it air, raise a laptop from its surface, or lend less of it.",
        on_each(hot, _look),
        tuple(node.id for node in hot),
    )


def _is_throttled(node: NodeNow) -> bool:
    if node.report.thermal_state in ("", "unknown", "nominal"):
        return False
    return len(node.past) < SAMPLES_MIN or _share(node) >= SHARE_MIN


def _share(node: NodeNow) -> float:
    return sum(sample.is_hot for sample in node.past) / len(node.past)


def _facts(node: NodeNow) -> Iterator[Evidence]:
    if node.report.temperature_c is not None:
        yield Evidence(f"{node.id} temperature", f"{node.report.temperature_c:.0f} °C")
    if node.past:
        yield Evidence(f"{node.id} hot", f"{percent(_share(node))} of the last hour")


def _look(system: str) -> str:
    return {"macos": "pmset -g therm", "windows": "powercfg /energy"}.get(system, "sensors")


CHECK = Check("throttling", "No node is slowed by heat", find)
