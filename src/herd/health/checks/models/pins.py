"""Finds pinned models that are not in memory."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from herd.core.state.fleet import ModelName, NodeId
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    missing = [
        (node_id, model)
        for node_id, models in sorted(snapshot.pinned.items())
        for model in models
        if not _is_resident(snapshot, node_id, model)
    ]
    if not missing:
        return
    yield Finding(
        severity=Severity.WARNING,
        title=f"Pinned but not in memory: {names(model for _, model in missing)}",
        cause="The engine was restarted, needed the memory for another model, or does not have the model on disk.",
        evidence=tuple(
            Evidence(f"{model} on {node_id or 'any node'}", _status(snapshot, node_id, model))
            for node_id, model in missing
        ),
        remedy="Load the model, or unpin it to free the memory.",
        commands=tuple(
            command
            for _, model in missing[:COMMANDS_MAX]
            for command in anywhere(f'ollama run {shlex.quote(model)} ""')
        ),
        nodes=tuple(sorted({node_id for node_id, _ in missing if node_id})),
    )


COMMANDS_MAX = 4


def _is_resident(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> bool:
    """True for an offline node, which the check `offline` reports. Any node can satisfy a pin without a node."""
    nodes = [node for node in snapshot.here if not node_id or node.id == node_id]
    return not nodes or any(name == model for node in nodes for name, _ in node.loaded)


def _status(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> str:
    is_on_disk = any(model in node.report.models for node in snapshot.here if not node_id or node.id == node_id)
    return "on disk only" if is_on_disk else "not on the node"


CHECK = Check("pins", "All pinned models are in memory", find)
