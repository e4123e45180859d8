"""Finds models whose context windows (KV cache) take more memory than the weights."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import ModelInfo, ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, variable
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import gb

SURPLUS_MIN_BYTES = 4_000_000_000


def find(snapshot: Snapshot) -> Iterator[Finding]:
    bloated = [
        (node, name)
        for node in snapshot.here
        for name, card in node.loaded
        if _surplus_bytes(card) >= max(SURPLUS_MIN_BYTES, card.size_bytes)
    ]
    if not bloated:
        return
    nodes = {node.id: node for node, _ in bloated}
    slots = max(node.report.models[name].engine.slots for node, name in bloated)
    remedy = (
        variable("OLLAMA_NUM_PARALLEL", str(max(1, slots // 2)))
        if slots > 1
        else variable("OLLAMA_KV_CACHE_TYPE", "q8_0")
    )
    yield Finding(
        severity=Severity.WARNING,
        title=f"{names(name for _, name in bloated)}: context windows take more memory than the model",
        cause="The engine reserves a full context window for every slot.",
        evidence=tuple(Evidence(f"{name} on {node.id}", _sizes(node, name)) for node, name in bloated),
        remedy="Use fewer slots, smaller context windows, or a quantized KV cache.",
        commands=on_each(nodes.values(), remedy),
        nodes=tuple(sorted(nodes)),
    )


def _surplus_bytes(card: ModelInfo) -> int:
    return card.loaded.size_bytes - card.size_bytes if card.loaded is not None and card.size_bytes else 0


def _sizes(node: NodeNow, name: ModelName) -> str:
    card = node.report.models[name]
    window = card.loaded.window_tokens if card.loaded is not None else None
    windows = f"{card.engine.slots} x {window or '?'} tokens"
    return f"{gb(_surplus_bytes(card))} for {windows}, {gb(card.size_bytes)} for the weights"


CHECK = Check("kv_bloat", "Context windows take less memory than their models", find)
