"""Finds nodes that cannot serve requests because they have no engine or no model."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    bare = [node for node in snapshot.here if not node.report.engines]
    if bare:
        yield Finding(
            severity=Severity.WARNING,
            title=f"{names(node.id for node in bare)}: no engine found",
            cause="The agent runs, but finds no inference engine.",
            evidence=tuple(Evidence(node.id, "no engine") for node in bare),
            remedy="Start an engine, or let the agent download one.",
            commands=anywhere("herd-node --engine embedded"),
            nodes=tuple(node.id for node in bare),
            key="engine",
        )
    empty = [node for node in snapshot.here if node.report.engines and not node.report.models]
    if empty:
        yield Finding(
            severity=Severity.INFO,
            title=f"{names(node.id for node in empty)}: no models",
            cause="The engine has no model on disk.",
            evidence=tuple(Evidence(node.id, "no model") for node in empty),
            remedy="Download a model on that node.",
            commands=anywhere("ollama pull llama3.2:3b"),
            nodes=tuple(node.id for node in empty),
            key="model",
        )


CHECK = Check("idle_nodes", "All nodes have an engine and a model", find)
