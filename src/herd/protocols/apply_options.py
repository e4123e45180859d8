"""Puts what is to be partial_answer of the window into a request: into a neutral conversation, or into Ollama's own body. Decides no window."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo
from herd.protocols.conversation import Conversation

RUNNER_OPTIONS = frozenset({"num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"})
"""Options other than `num_ctx` for which Ollama starts a runner anew where they differ (server/sched.go, needsReload)."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_engine_options(conversation: Conversation, pin: EngineOptions | None) -> Conversation:
    """The conversation with that window, without the options that would reload the model, not to be cut."""
    if pin is None:
        return conversation
    sampling = conversation.sampling
    extra = {
        name: value for name, value in sampling.extra.items() if not (pin.drops_options and name in RUNNER_OPTIONS)
    }
    window = pin.context_tokens if pin.context_tokens is not None else sampling.context_tokens
    cut = False if pin.forbids_cutting and conversation.truncate is None else conversation.truncate
    most = pin.output_tokens_max or sampling.output_tokens_max
    told = dataclasses.replace(sampling, context_tokens=window, extra=extra, output_tokens_max=most)
    return dataclasses.replace(conversation, sampling=told, truncate=cut)


def retry_prompt_tokens(prompt_tokens: int, pin: EngineOptions | None, card: ModelInfo) -> int:
    """How long a prompt is that was refused for its window and may be asked again with a larger one; 0 where the refusal stands."""
    has_room = card.context_max_tokens is None or prompt_tokens < card.context_max_tokens
    return prompt_tokens if pin is not None and pin.may_enlarge and has_room else 0


def changed_fields(
    options: msgspec.Raw | None, says_truncate: bool, says_shift: bool, pin: EngineOptions
) -> Mapping[str, Any]:
    """The fields of Ollama's body that become others: its options (as they were sent, None where there were none), `truncate` and `shift`.

    A `shift` of null is the engine's own, which is what a runner has that nobody loaded otherwise.
    """
    given = _OBJECT.decode(options) if options else {}
    kept: dict[str, Any] = {
        name: value for name, value in given.items() if not (pin.drops_options and name in RUNNER_OPTIONS)
    }
    if pin.context_tokens is not None:
        kept["num_ctx"] = pin.context_tokens
    if pin.output_tokens_max is not None:
        kept["num_predict"] = pin.output_tokens_max
    changed: dict[str, Any] = {"options": kept} if kept or given else {}
    if pin.forbids_cutting and not says_truncate:
        changed["truncate"] = False
    if says_shift and pin.drops_options:
        changed["shift"] = None
    return changed
