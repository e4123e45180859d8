"""Compares what a request needs with what a model reports: what is not reported is unknown, and is tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from herd.core.state.fleet import ModelInfo
from herd.core.state.request import Request, RequestKind

THINKING = "thinking"
"""Optional: a model without it answers too, so a request is never refused for it."""

TOOL_CALLS = "tool_calls"
"""A model whose template lacks it leaves earlier calls of tools out of the prompt. No request is refused for it."""

_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "completion": "chat",
        "embedding": "embeddings",
        "insert": "insert (a suffix)",
        "tools": "tools",
        "vision": "images",
    }
)
_NONE: frozenset[str] = frozenset()


def missing(request: Request, model_info: ModelInfo) -> frozenset[str]:
    """What the request needs and its engine would refuse, because the model is reported to lack it.

    Empty for a question about the model.
    """
    if request.needs.isdisjoint(model_info.lacks) or request.kind is RequestKind.INFO:
        return _NONE
    return (request.needs & model_info.lacks) - {THINKING} - model_info.engine.abilities.leaves_out


def left_out(needs: frozenset[str], model_info: ModelInfo) -> frozenset[str]:
    """What the engine would leave out of a request with these needs without an error, because the model lacks it."""
    leaves_out = model_info.engine.abilities.leaves_out
    return needs & leaves_out & model_info.lacks if leaves_out else _NONE


def has_all(needs: frozenset[str], model_info: ModelInfo) -> bool:
    """Whether the model is reported to have everything that is needed."""
    return needs - {THINKING} <= model_info.capabilities


def described(capabilities: Iterable[str]) -> str:
    """The capabilities in plain words: "images and tools"."""
    return " and ".join(sorted(_WORDS.get(capability, capability) for capability in capabilities))
