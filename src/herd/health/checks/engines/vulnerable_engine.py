"""Finds engines whose version has a published vulnerability, from the list in this file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, numbers, on_each, upgrade
from herd.health.snapshot import NodeNow, Snapshot


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A vulnerability. `severity` assumes a node that only its coordinator can reach."""

    kind: str
    fixed_in: str
    name: str
    description: str
    severity: Severity


VULNERABILITIES = (
    Vulnerability("ollama", "0.1.29", "CVE-2024-28224", "a web page can access it by DNS rebinding", Severity.CRITICAL),
    Vulnerability(
        "ollama", "0.1.34", "CVE-2024-37032", "a crafted model can execute code on the machine", Severity.CRITICAL
    ),
    Vulnerability("ollama", "0.1.46", "CVE-2024-39720", "a crafted file can crash it", Severity.WARNING),
    Vulnerability(
        "ollama",
        "0.1.47",
        "CVE-2024-45436",
        "a crafted archive can write files outside of its folder",
        Severity.CRITICAL,
    ),
    Vulnerability(
        "ollama", "0.17.1", "CVE-2026-7482", "a client that reaches its port can read its memory", Severity.CRITICAL
    ),
)
"""From published advisories; vulnerabilities without a fixed version are left out."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    affected: dict[tuple[str, str], list[tuple[NodeNow, tuple[Vulnerability, ...]]]] = {}
    for node in snapshot.online:
        for endpoint in node.report.engines:
            vulnerabilities = tuple(
                vulnerability
                for vulnerability in VULNERABILITIES
                if vulnerability.kind == endpoint.kind
                and () < numbers(endpoint.version) < numbers(vulnerability.fixed_in)
            )
            if vulnerabilities:
                affected.setdefault((endpoint.kind, endpoint.version), []).append((node, vulnerabilities))
    for (kind, version), found in sorted(affected.items()):
        nodes, vulnerabilities = [node for node, _ in found], found[0][1]
        yield Finding(
            severity=min(
                (vulnerability.severity for vulnerability in vulnerabilities),
                key=(Severity.CRITICAL, Severity.WARNING).index,
            ),
            title=f"{kind} {version} has known vulnerabilities",
            cause=f"Affected: {names(node.id for node in nodes)}. "
            f"Version {vulnerabilities[-1].fixed_in} fixes all of them.",
            evidence=tuple(
                Evidence(vulnerability.name, f"{vulnerability.description} (fixed in {vulnerability.fixed_in})")
                for vulnerability in vulnerabilities
            ),
            remedy="Upgrade the engine, and allow connections to its port from the coordinator only.",
            commands=on_each(nodes, upgrade),
            nodes=tuple(node.id for node in nodes),
            key=f"{kind} {version}",
        )


CHECK = Check("vulnerable_engine", "No engine has a known vulnerability", find)
