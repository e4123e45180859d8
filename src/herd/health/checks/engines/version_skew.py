"""Finds agents of herd with another version than the coordinator, and engines of one kind with different versions."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.lifecycle.node_names import is_by_address
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, numbers, on_each, upgrade
from herd.health.snapshot import Snapshot
from herd.text import number


def find(snapshot: Snapshot) -> Iterator[Finding]:
    others = [
        node
        for node in snapshot.online
        if node.report.agent_version not in ("", snapshot.version) and not is_by_address(node.report.boot_id)
    ]
    if others:
        yield Finding(
            severity=Severity.INFO,
            title=f"{number(len(others), 'agent')} with another version than the coordinator",
            cause="The versions are compatible, but new features need the new version on both sides.",
            evidence=(
                Evidence("coordinator", snapshot.version),
                *(Evidence(node.id, node.report.agent_version) for node in others),
            ),
            remedy="On the machine with the older version, run the command in a current clone of the repository.",
            commands=anywhere("pipx install --force ."),
            nodes=tuple(node.id for node in others),
            key="agent",
        )
    for kind in sorted({endpoint.kind for node in snapshot.online for endpoint in node.report.engines}):
        yield from _of_engine(snapshot, kind)


def _of_engine(snapshot: Snapshot, kind: str) -> Iterator[Finding]:
    """Reports engines of one kind whose first two version numbers differ."""
    known = {
        node.id: endpoint.version
        for node in snapshot.online
        for endpoint in node.report.engines
        if endpoint.kind == kind and numbers(endpoint.version)
    }
    if len({numbers(version)[:2] for version in known.values()}) < 2:
        return
    newest = max(known.values(), key=numbers)
    older = [node for node in snapshot.online if node.id in known and numbers(known[node.id])[:2] < numbers(newest)[:2]]
    yield Finding(
        severity=Severity.INFO,
        title=f"Different versions of {kind} are in use",
        cause="Context window, prompt template and speed of a model may differ between versions.",
        evidence=tuple(Evidence(node_id, version) for node_id, version in sorted(known.items())),
        remedy=f"Upgrade all of them to {newest}.",
        commands=on_each(older, upgrade) if kind == "ollama" else (),
        nodes=tuple(node.id for node in older),
        key=kind,
    )


CHECK = Check("version_skew", "Agent and engine versions match", find)
