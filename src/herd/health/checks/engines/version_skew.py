"""Agents of another version than the coordinator, and engines of one kind in several versions."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, numbers, on_each, upgrade
from herd.health.snapshot import Snapshot
from herd.text import number


def find(snapshot: Snapshot) -> Iterator[Finding]:
    others = [
        node for node in snapshot.here if node.report.agent_version and node.report.agent_version != snapshot.version
    ]
    if others:
        yield Finding(
            Severity.INFO,
            f"{number(len(others), 'agent')} of another version than the coordinator",
            "They understand each other, but what is new works only where both are new.",
            (
                Evidence("coordinator", snapshot.version),
                *(Evidence(node.id, node.report.agent_version) for node in others),
            ),
            "Upgrade the older of the two.",
            anywhere("pipx upgrade ollama-herd"),
            tuple(node.id for node in others),
            "agent",
        )
    for kind in sorted({endpoint.kind for node in snapshot.here for endpoint in node.report.engines}):
        yield from _of_engine(snapshot, kind)


def _of_engine(snapshot: Snapshot, kind: str) -> Iterator[Finding]:
    """Engines of one kind whose first two numbers differ: answers, windows and speeds differ with them."""
    known = {
        node.id: endpoint.version
        for node in snapshot.here
        for endpoint in node.report.engines
        if endpoint.kind == kind and numbers(endpoint.version)
    }
    if len({numbers(version)[:2] for version in known.values()}) < 2:
        return
    newest = max(known.values(), key=numbers)
    older = [node for node in snapshot.here if node.id in known and numbers(known[node.id])[:2] < numbers(newest)[:2]]
    yield Finding(
        Severity.INFO,
        f"{kind} runs in several versions",
        "The same model may use another window, template or speed from one version to the next.",
        tuple(Evidence(node_id, version) for node_id, version in sorted(known.items())),
        f"Bring them all to {newest}.",
        on_each(older, upgrade) if kind == "ollama" else (),
        tuple(node.id for node in older),
        kind,
    )


CHECK = Check("version_skew", "Agents and engines are of one version", find)
