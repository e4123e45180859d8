"""Which loaded model may answer for one that no node can load now. Never another kind of model: text for text, sight for sight, code for code.

The rule of the existing product (`FLEET_VRAM_FALLBACK`), with what it lacked: what a request needs (pictures, tools, thinking) the other
model must be able to give, and a model that makes vectors is never replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.state.decision import Decision
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName
from herd.core.state.request import Request, RequestKind

SENSES = frozenset({"vision", "audio", "image"})
"""Abilities that a replacement must have where the model that was asked for has them."""
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
    """The largest loaded model of the same kind, where memory is all that keeps the one asked for from every node that has it."""
    if (
        request.kind not in (RequestKind.CHAT, RequestKind.GENERATE)
        or decision is None
        or not _is_memory_alone(decision)
    ):
        return None
    wanted = [card for node in fleet.with_model(model) if (card := node.card(model)) is not None]
    if not wanted or "embedding" in wanted[0].capabilities:
        return None
    fit = [
        (card.size_bytes, name)
        for node in fleet
        if node.liveness is not Liveness.OFFLINE
        for name in node.loaded
        if name != model and (card := node.card(name)) is not None and _is_alike(request, wanted[0], card)
    ]
    return max(fit)[1] if fit else None


def _is_memory_alone(decision: Decision) -> bool:
    having = [one.filter for one in decision.rejected if one.filter != "has_model"]
    return bool(having) and all(name == "memory" for name in having)


def _is_alike(request: Request, wanted: ModelInfo, card: ModelInfo) -> bool:
    if "embedding" in card.capabilities or not request.needs <= card.capabilities | {"completion"}:
        return False
    return (wanted.capabilities & SENSES) <= card.capabilities and is_for_code(wanted.name) == is_for_code(card.name)


def is_for_code(name: str) -> bool:
    """By its name: no engine says what a model was trained for."""
    return any(word in name.lower() for word in _CODE)
