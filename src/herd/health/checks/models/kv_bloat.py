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
        for node in snapshot.online
        for name, model_info in node.loaded
        if _surplus_bytes(model_info) >= max(SURPLUS_MIN_BYTES, model_info.size_bytes)
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


def _surplus_bytes(model_info: ModelInfo) -> int:
    return (
        model_info.loaded.size_bytes - model_info.size_bytes
        if model_info.loaded is not None and model_info.size_bytes
        else 0
    )


def _sizes(node: NodeNow, name: ModelName) -> str:
    model_info = node.report.models[name]
    window = model_info.loaded.window_tokens if model_info.loaded is not None else None
    windows = f"{model_info.engine.slots} x {window or '?'} tokens"
    return f"{gb(_surplus_bytes(model_info))} for {windows}, {gb(model_info.size_bytes)} for the weights"


CHECK = Check("kv_bloat", "Context windows take less memory than their models", find)
