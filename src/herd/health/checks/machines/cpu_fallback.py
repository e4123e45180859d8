"""Models that are in main memory although their node has a graphics processor: after a resume or a driver update engines fall back silently."""

from __future__ import annotations

from collections.abc import Iterator

from herd.core.state.fleet import ModelInfo, ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, restart, system_of
from herd.health.snapshot import NodeNow, Snapshot
from herd.text import gb

SHARE_OK = 0.10
"""Less than this of a model on the graphics processor is none of it."""
ROOM_FACTOR = 1.0


def find(snapshot: Snapshot) -> Iterator[Finding]:
    fallen = [(node, tuple(name for name, card in node.loaded if _has_fallen(node, card))) for node in snapshot.here]
    fallen = [(node, models) for node, models in fallen if models]
    if not fallen:
        return
    yield Finding(
        Severity.CRITICAL,
        f"{names(node.id for node, _ in fallen)}: models run on the processor instead of the GPU",
        "The engine did not find its GPU when it loaded them, as happens after sleep or a driver update; answers take ten times longer.",
        tuple(Evidence(f"{model} on {node.id}", _told(node, model)) for node, models in fallen for model in models),
        "Start the engine anew; if that does not help, the machine.",
        on_each((node for node, _ in fallen), restart),
        tuple(node.id for node, _ in fallen),
    )


def _has_fallen(node: NodeNow, card: ModelInfo) -> bool:
    """Only where it would have fitted: what is larger than the GPU's memory runs on the processor by right."""
    loaded = card.loaded
    if loaded is None or loaded.vram_bytes is None or not loaded.size_bytes:
        return False
    is_apple = "apple" in node.report.chip.lower() and system_of(node) == "macos"
    gpu_bytes = node.report.gpu_memory_bytes or (node.report.memory.total_bytes if is_apple else 0)
    return loaded.vram_bytes < SHARE_OK * loaded.size_bytes <= SHARE_OK * gpu_bytes * ROOM_FACTOR


def _told(node: NodeNow, model: ModelName) -> str:
    loaded = node.report.models[model].loaded
    return f"{gb(loaded.vram_bytes or 0)} of {gb(loaded.size_bytes)} on the GPU" if loaded is not None else ""


CHECK = Check("cpu_fallback", "Models that fit are on the GPU", find)
