"""Writes EngineOptions (context window, output limit, runner options) into a conversation or into an Ollama body."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo
from herd.core.state.served_paths import ServedPath
from herd.protocols.conversation import Conversation, Message, MessageOfParts, copied
from herd.protocols.request_fields import ABSENT, has_content, is_given

RUNNER_OPTIONS = frozenset({"num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"})
"""Options other than `num_ctx` that make Ollama reload the model if they differ (server/sched.go, needsReload)."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_engine_options(conversation: Conversation, options: EngineOptions | None) -> Conversation:
    """The conversation with the window and limits of `options`, and without what it drops."""
    if options is None:
        return conversation
    sampling, think = conversation.sampling, conversation.think
    if options.drops_thinking and think:
        conversation.ignore(conversation.think_field)
        think = None
    # The engine streams if the coordinator has to count the visible tokens of a raised limit.
    stream = conversation.stream or options.output_tokens_max is not None
    window_tokens = options.window_tokens if options.window_tokens is not None else sampling.window_tokens
    truncate = False if options.forbids_truncation and conversation.truncate is None else conversation.truncate
    changed, changed.sampling = copied(conversation), copied(sampling)
    changed.sampling.window_tokens = window_tokens
    changed.sampling.extra = _retained(sampling.extra, options)
    changed.sampling.output_tokens_max = options.output_tokens_max or sampling.output_tokens_max
    changed.truncate, changed.think, changed.stream = truncate, think, stream
    return changed


def as_own_endpoint(conversation: Conversation, served: ServedPath) -> Conversation:
    """The conversation as the engine's own endpoint would understand the client's request."""
    sampling = conversation.sampling
    missing: dict[str, Any] = {
        name: value for name, value in served.defaults.items() if getattr(sampling, name) is None
    }
    understood = copied(conversation)
    understood.raw = conversation.raw and not served.has_template
    if served.splits_content:
        understood.messages = [turn for one in conversation.messages for turn in _split(one)]
    if missing:
        understood.sampling = dataclasses.replace(sampling, **missing)
    return understood


def _split(message: Message) -> list[Message]:
    """A turn for each part of the content; the last one has the tool calls."""
    if not isinstance(message, MessageOfParts):
        return [message]
    *first, last = message.pieces
    for turn in (*first, last):
        turn.tool_call_id, turn.tool_name = message.tool_call_id, message.tool_name
    return [*first, dataclasses.replace(last, thinking=message.thinking, tool_calls=message.tool_calls)]


def retry_prompt_tokens(prompt_tokens: int, options: EngineOptions | None, model: ModelInfo) -> int:
    """The size of a prompt that was rejected as too long and may be retried with a larger context window; else 0."""
    fits_model = model.context_max_tokens is None or prompt_tokens < model.context_max_tokens
    return prompt_tokens if options is not None and options.may_enlarge and fits_model else 0


def changed_fields(
    sent_options: msgspec.Raw | None, has_truncate: bool, has_shift: bool, options: EngineOptions
) -> Mapping[str, Any]:
    """The fields of an Ollama body that must change: `options`, `truncate` and `shift`.

    `sent_options` are the options as the client sent them, None without any. A `shift` of null selects Ollama's
    default, which is the setting of a model that was loaded without one.
    """
    given = _OBJECT.decode(sent_options) if sent_options else {}
    retained: dict[str, Any] = _retained(given, options)
    if options.window_tokens is not None:
        retained["num_ctx"] = options.window_tokens
    if options.output_tokens_max is not None:
        retained["num_predict"] = options.output_tokens_max
    changed: dict[str, Any] = {"options": retained} if retained or given else {}
    if options.forbids_truncation and not has_truncate:
        changed["truncate"] = False
    if options.output_tokens_max is not None:
        changed["stream"] = True  # the coordinator counts the visible tokens, and collects the answer
    if has_shift and options.drops_options:
        changed["shift"] = None
    return changed


def replaced_options(body: bytes, sent_window_tokens: int | None, options: EngineOptions) -> list[str]:
    """The names of the client's options that have no effect, because the model would be reloaded for them."""
    set_tokens = options.window_tokens
    names = ["options.num_ctx"] if sent_window_tokens and set_tokens not in (None, sent_window_tokens) else []
    if options.drops_options:
        fields = _OBJECT.decode(body)
        given = _OBJECT.decode(fields["options"]) if has_content(fields.get("options", ABSENT)) else {}
        names += [f"options.{name}" for name in given if name in RUNNER_OPTIONS and is_given(given[name])]
        names += ["shift"] if is_given(fields.get("shift", ABSENT)) else []
    return names


def _retained(given: Mapping[str, Any], options: EngineOptions) -> dict[str, Any]:
    return {name: value for name, value in given.items() if not (options.drops_options and name in RUNNER_OPTIONS)}
