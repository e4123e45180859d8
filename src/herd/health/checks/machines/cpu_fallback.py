"""Finds models that run on the CPU although they fit into the memory of the node's GPU."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import ModelInfo, ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, restart, system_of
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import gb

SHARE_OK = 0.10
"""A model with a smaller share of its size on the GPU runs on the CPU."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    on_cpu = [
        (node, tuple(name for name, model_info in node.loaded if _is_on_cpu(node, model_info)))
        for node in snapshot.online
    ]
    on_cpu = [(node, models) for node, models in on_cpu if models]
    if not on_cpu:
        return
    yield Finding(
        severity=Severity.CRITICAL,
        title=f"{names(node.id for node, _ in on_cpu)}: models run on the CPU instead of the GPU",
        cause="The engine probably did not find the GPU when it loaded the models, which can happen after sleep or a "
        "driver update. Answers take about ten times longer.",
        evidence=tuple(
            Evidence(f"{model} on {node.id}", _share_on_gpu(node, model)) for node, models in on_cpu for model in models
        ),
        remedy="Restart the engine; if that does not help, the machine.",
        commands=on_each((node for node, _ in on_cpu), restart),
        nodes=tuple(node.id for node, _ in on_cpu),
    )


def _is_on_cpu(node: NodeNow, model_info: ModelInfo) -> bool:
    """False for a model that is larger than the GPU's memory: it has to run on the CPU."""
    loaded = model_info.loaded
    if loaded is None or loaded.vram_bytes is None or not loaded.size_bytes:
        return False
    is_apple = "apple" in node.report.chip.lower() and system_of(node) == "macos"
    gpu_bytes = node.report.gpu_memory_bytes or (node.report.memory.total_bytes if is_apple else 0)
    return loaded.vram_bytes < SHARE_OK * loaded.size_bytes <= SHARE_OK * gpu_bytes


def _share_on_gpu(node: NodeNow, model: ModelName) -> str:
    loaded = node.report.models[model].loaded
    return f"{gb(loaded.vram_bytes or 0)} of {gb(loaded.size_bytes)} on the GPU" if loaded is not None else ""


CHECK = Check("cpu_fallback", "Models that fit run on the GPU", find)
