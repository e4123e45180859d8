"""Nodes that can serve nothing: no engine, or no model."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    bare = [node for node in snapshot.here if not node.report.engines]
    if bare:
        yield Finding(
            Severity.WARNING,
            f"{names(node.id for node in bare)}: no engine answers there",
            "The agent runs, but finds nothing that runs models.",
            tuple(Evidence(node.id, "no engine") for node in bare),
            "Start one, or let the agent bring its own.",
            anywhere("herd-node --engine embedded"),
            tuple(node.id for node in bare),
            "engine",
        )
    empty = [node for node in snapshot.here if node.report.engines and not node.report.models]
    if empty:
        yield Finding(
            Severity.INFO,
            f"{names(node.id for node in empty)}: no model yet",
            "Its engine has nothing on disk.",
            tuple(Evidence(node.id, "no model") for node in empty),
            "Pull one there.",
            anywhere("ollama pull llama3.2:3b"),
            tuple(node.id for node in empty),
            "model",
        )


CHECK = Check("idle_nodes", "Every node has an engine and a model", find)
