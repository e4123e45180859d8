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
        cause="Possible causes: the engine was restarted, it needed the memory, or the model is not on disk.",
        evidence=tuple(
            Evidence(f"{model} on {node_id or 'any node'}", _status(snapshot, node_id, model))
            for node_id, model in missing
        ),
        remedy="Load the model (download it first if it is not on disk), or unpin it.",
        commands=tuple(
            command
            for node_id, model in missing[:COMMANDS_MAX]
            for text in (_load_command(snapshot, node_id, model), f"herd unpin {shlex.quote(model)}")
            for command in anywhere(text)
        ),
        nodes=tuple(sorted({node_id for node_id, _ in missing if node_id})),
    )


COMMANDS_MAX = 4
"""Maximum number of models that the commands name."""


def _is_resident(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> bool:
    """True for an offline node, which the check `offline` reports. Any node can satisfy a pin without a node."""
    nodes = [node for node in snapshot.online if not node_id or node.id == node_id]
    return not nodes or any(name == model for node in nodes for name, _ in node.loaded)


def _status(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> str:
    return "on disk only" if _is_on_disk(snapshot, node_id, model) else "not on the node"


def _is_on_disk(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> bool:
    return any(model in node.report.models for node in snapshot.online if not node_id or node.id == node_id)


def _load_command(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> str:
    verb = "load" if _is_on_disk(snapshot, node_id, model) else "pull"
    return f"herd {verb} {shlex.quote(model)}" + (f" --node {shlex.quote(node_id)}" if node_id else "")


CHECK = Check("pins", "All pinned models are in memory", find)
