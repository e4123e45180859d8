"""Finds nodes that cannot serve requests because they have no engine or no model."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from herd.health import Check, Command, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import NodeNow, Snapshot

COMMANDS_MAX = 4


def find(snapshot: Snapshot) -> Iterator[Finding]:
    without_engine = [node for node in snapshot.online if not node.report.engines]
    if without_engine:
        yield Finding(
            severity=Severity.WARNING,
            title=f"{names(node.id for node in without_engine)}: no engine found",
            cause="The agent runs, but finds no inference engine.",
            evidence=tuple(Evidence(node.id, "no engine") for node in without_engine),
            remedy="Start an engine on that machine, or use the embedded engine (install it first).",
            commands=anywhere("herd-node --engine embedded"),
            nodes=tuple(node.id for node in without_engine),
            key="engine",
        )
    without_model = [node for node in snapshot.online if node.report.engines and not node.report.models]
    if without_model:
        yield Finding(
            severity=Severity.INFO,
            title=f"{names(node.id for node in without_model)}: no models",
            cause="The engine has no model on disk.",
            evidence=tuple(Evidence(node.id, "no model") for node in without_model),
            remedy="Download a model to the node; the model in the command is an example.",
            commands=_downloads(without_model),
            nodes=tuple(node.id for node in without_model),
            key="model",
        )


def _downloads(nodes: list[NodeNow]) -> tuple[Command, ...]:
    return tuple(
        command
        for node in nodes[:COMMANDS_MAX]
        for command in anywhere(f"herd pull llama3.2:3b --node {shlex.quote(node.id)}")
    )


CHECK = Check("idle_nodes", "All nodes have an engine and a model", find)
