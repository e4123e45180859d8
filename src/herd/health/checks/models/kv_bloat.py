"""Models whose windows take more memory than the models themselves: too many slots, or too long windows."""

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
        Severity.WARNING,
        f"{names(name for _, name in bloated)}: windows take more memory than the model",
        "The engine reserves a whole window for every slot, used or not.",
        tuple(Evidence(f"{name} on {node.id}", _told(node, name)) for node, name in bloated),
        "Fewer slots, shorter windows, or a compressed cache.",
        on_each(nodes.values(), remedy),
        tuple(sorted(nodes)),
    )


def _surplus_bytes(card: ModelInfo) -> int:
    return card.loaded.size_bytes - card.size_bytes if card.loaded is not None and card.size_bytes else 0


def _told(node: NodeNow, name: ModelName) -> str:
    card = node.report.models[name]
    window = card.loaded.window_tokens if card.loaded is not None else None
    return f"{gb(_surplus_bytes(card))} beside {gb(card.size_bytes)} of weights: {card.engine.slots} x {window or '?'} tokens"


CHECK = Check("kv_bloat", "Windows take less memory than their models", find)
