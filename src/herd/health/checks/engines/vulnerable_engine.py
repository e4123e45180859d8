"""Engines of versions with published holes. Knows a list of versions; asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, numbers, on_each, upgrade
from herd.health.snapshot import NodeNow, Snapshot


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """Closed in `closed_in`; `severity` is what it means for a node that only its coordinator should reach."""

    kind: str
    closed_in: str
    name: str
    about: str
    severity: Severity


HOLES = (
    Vulnerability("ollama", "0.1.29", "CVE-2024-28224", "a web page can reach it by DNS rebinding", Severity.CRITICAL),
    Vulnerability("ollama", "0.1.34", "CVE-2024-37032", "a crafted model runs code on the machine", Severity.CRITICAL),
    Vulnerability("ollama", "0.1.46", "CVE-2024-39720", "a crafted file ends it", Severity.WARNING),
    Vulnerability(
        "ollama", "0.1.47", "CVE-2024-45436", "a crafted archive writes outside of its folder", Severity.CRITICAL
    ),
    Vulnerability("ollama", "0.17.1", "CVE-2026-7482", "whoever reaches its port reads its memory", Severity.CRITICAL),
)
"""From the published advisories; those without a version that closes them are left out."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    struck: dict[tuple[str, str], list[tuple[NodeNow, tuple[Vulnerability, ...]]]] = {}
    for node in snapshot.here:
        for endpoint in node.report.engines:
            holes = tuple(
                hole
                for hole in HOLES
                if hole.kind == endpoint.kind and () < numbers(endpoint.version) < numbers(hole.closed_in)
            )
            if holes:
                struck.setdefault((endpoint.kind, endpoint.version), []).append((node, holes))
    for (kind, version), found in sorted(struck.items()):
        nodes, holes = [node for node, _ in found], found[0][1]
        yield Finding(
            min((hole.severity for hole in holes), key=(Severity.CRITICAL, Severity.WARNING).index),
            f"{kind} {version} has known holes",
            f"On {names(node.id for node in nodes)}; {holes[-1].closed_in} closes them.",
            tuple(Evidence(hole.name, f"{hole.about} (closed in {hole.closed_in})") for hole in holes),
            "Upgrade it, and let nobody but the coordinator reach its port.",
            on_each(nodes, upgrade),
            tuple(node.id for node in nodes),
            f"{kind} {version}",
        )


CHECK = Check("vulnerable_engine", "No engine has a known hole", find)
