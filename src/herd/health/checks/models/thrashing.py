"""Finds nodes where models evict each other from memory again and again (thrashing)."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import number

RETURNS_MIN = 6
"""Loads in the last hour of models that were in memory earlier in that hour."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    thrashing = [(node, _returns(node)) for node in snapshot.online]
    thrashing = [(node, returns) for node, returns in thrashing if sum(returns.values()) >= RETURNS_MIN]
    if not thrashing:
        return
    yield Finding(
        severity=Severity.WARNING,
        title=f"{names(node.id for node, _ in thrashing)}: models evict each other (thrashing)",
        cause="More models are requested than the engine keeps in memory at once, and each eviction costs a cold load.",
        evidence=tuple(
            Evidence(f"{model} on {node.id}", f"reloaded {number(count, 'time')} in an hour")
            for node, returns in thrashing
            for model, count in sorted(returns.items(), key=lambda item: -item[1])[:SHOWN_MAX]
        ),
        remedy="Let the engine keep more models if memory allows it, or move one model to another node.",
        commands=on_each((node for node, _ in thrashing), variable("OLLAMA_MAX_LOADED_MODELS", "3")),
        nodes=tuple(node.id for node, _ in thrashing),
    )


SHOWN_MAX = 4


def _returns(node: NodeNow) -> dict[ModelName, int]:
    """How often each model was loaded again after it had been unloaded."""
    before: frozenset[ModelName] = frozenset()
    seen: set[ModelName] = set()
    returns: dict[ModelName, int] = {}
    for sample in node.samples:
        for model in sample.loaded - before:
            if model in seen:
                returns[model] = returns.get(model, 0) + 1
        seen |= sample.loaded
        before = sample.loaded
    return returns


CHECK = Check("thrashing", "No model thrashing", find)
