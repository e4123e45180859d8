"""Chooses a loaded model of the same kind to answer for a model that fits into no node's memory.

This is the rule of ollama-herd (`FLEET_VRAM_FALLBACK`) with two additions: the other model must have the capabilities
that the request needs (images, tools, thinking), and an embedding model is never replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.state.decision import Decision
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName
from herd.core.state.request import Request, RequestKind

MODALITIES = frozenset({"vision", "audio", "image"})
"""Capabilities that the substitute must have if the requested model has them."""
_CODE = ("code", "coder", "starcoder", "devstral", "codestral")


@dataclass(frozen=True, slots=True)
class SubstituteSettings:
    is_on: bool = field(
        default=True,
        metadata={
            "env": "FLEET_VRAM_FALLBACK",
            "help": (
                "If no node has memory for a model, a loaded model of the same kind answers (header X-Fleet-Fallback)."
            ),
        },
    )


def substitute(request: Request, model: ModelName, decision: Decision | None, fleet: Fleet) -> ModelName | None:
    """The largest loaded model of the same kind, if lack of memory is the only reason on every node that has the
    requested model."""
    if (
        request.kind not in (RequestKind.CHAT, RequestKind.GENERATE)
        or decision is None
        or not _is_memory_the_only_reason(decision)
    ):
        return None
    wanted = [model_info for node in fleet.with_model(model) if (model_info := node.model_info(model)) is not None]
    if not wanted or "embedding" in wanted[0].capabilities:
        return None
    suitable = [
        (model_info.size_bytes, name)
        for node in fleet
        if node.liveness is not Liveness.OFFLINE
        for name in node.loaded
        if name != model
        and (model_info := node.model_info(name)) is not None
        and _is_suitable(request, wanted[0], model_info)
    ]
    return max(suitable)[1] if suitable else None


def _is_memory_the_only_reason(decision: Decision) -> bool:
    filters = {node.filter for node in decision.rejected} - {"has_model"}
    return filters == {"memory"}


def _is_suitable(request: Request, wanted: ModelInfo, model_info: ModelInfo) -> bool:
    if "embedding" in model_info.capabilities or not request.needs <= model_info.capabilities | {"completion"}:
        return False
    return (wanted.capabilities & MODALITIES) <= model_info.capabilities and is_for_code(wanted.name) == is_for_code(
        model_info.name
    )


def is_for_code(name: str) -> bool:
    """Judged by the name: no engine reports what a model was trained for."""
    return any(word in name.lower() for word in _CODE)
