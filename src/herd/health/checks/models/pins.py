"""Models that are pinned to a node and are not in its memory."""

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
        Severity.WARNING,
        f"Pinned but not in memory: {names(model for _, model in missing)}",
        "The engine was restarted, needed the memory for another model, or does not have it on disk.",
        tuple(
            Evidence(f"{model} on {node_id or 'any node'}", _told(snapshot, node_id, model))
            for node_id, model in missing
        ),
        "Load it, or unpin it where memory is needed for something else.",
        tuple(
            command
            for _, model in missing[:COMMANDS_MAX]
            for command in anywhere(f'ollama run {shlex.quote(model)} ""')
        ),
        tuple(sorted({node_id for node_id, _ in missing if node_id})),
    )


COMMANDS_MAX = 4


def _is_resident(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> bool:
    """A node that is away says nothing: that it is away is told elsewhere. A pin without a node may be met by any."""
    nodes = [node for node in snapshot.here if not node_id or node.id == node_id]
    return not nodes or any(name == model for node in nodes for name, _ in node.loaded)


def _told(snapshot: Snapshot, node_id: NodeId, model: ModelName) -> str:
    is_there = any(model in node.report.models for node in snapshot.here if not node_id or node.id == node_id)
    return "on disk only" if is_there else "not there at all"


CHECK = Check("pins", "Every pinned model is in memory", find)
