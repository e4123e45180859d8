"""Models that throw each other out of memory: the same ones leave and come back again and again."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import number

RETURNS_MIN = 6
"""Loads within the hour, of models that had been in memory within the hour before."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    thrashing = [(node, _returns(node)) for node in snapshot.here]
    thrashing = [(node, returns) for node, returns in thrashing if sum(returns.values()) >= RETURNS_MIN]
    if not thrashing:
        return
    yield Finding(
        Severity.WARNING,
        f"{names(node.id for node, _ in thrashing)}: models throw each other out",
        "More models are asked for than are kept in memory there at once, and each change costs a load.",
        tuple(
            Evidence(f"{model} on {node.id}", f"loaded again {number(count, 'time')} in an hour")
            for node, returns in thrashing
            for model, count in sorted(returns.items(), key=lambda item: -item[1])[:SHOWN_MAX]
        ),
        "Let the engine keep more models where memory allows; else leave one of them to another node.",
        on_each((node for node, _ in thrashing), variable("OLLAMA_MAX_LOADED_MODELS", "3")),
        tuple(node.id for node, _ in thrashing),
    )


SHOWN_MAX = 4


def _returns(node: NodeNow) -> dict[ModelName, int]:
    """By model: how often it was there, gone, and there again."""
    before: frozenset[ModelName] = frozenset()
    seen: set[ModelName] = set()
    returns: dict[ModelName, int] = {}
    for sample in node.past:
        for model in sample.loaded - before:
            if model in seen:
                returns[model] = returns.get(model, 0) + 1
        seen |= sample.loaded
        before = sample.loaded
    return returns


CHECK = Check("thrashing", "No models throw each other out", find)
