"""Recognizes the finish reasons with which engines end an answer that they could not complete.

An engine that aborts an answer may end its stream in order, and tell the failure only in the reason: "abort" (vLLM,
SGLang, LMDeploy), "error" (OpenRouter, vLLM), "cancelled" and "time_limit" (watsonx), "insufficient_system_resource"
(DeepSeek), "network_error" (Zhipu).
"""

from __future__ import annotations

import re

_COMPLETE = frozenset(
    (
        *("stop", "length", "tool_calls", "function_call", "content_filter", "load", "unload"),
        *("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "compaction"),
        *("model_context_window_exceeded", "eos_token", "eos", "completed", "incomplete", "repetition", "sensitive"),
    )
)
"""Reasons of complete answers, so that the usual ones are found without a search."""

_WORDS = (
    rb"abort|error|cancel|fail|timed?[ _-]?(?:out|limit)|disconnect|interrupt|shut[ _-]?down|terminated|killed|crash"
    rb"|unloaded|preempt|evict|unavailable|overload|insufficient|exception|lost|closed"
)
_FAILED = re.compile(_WORDS.decode(), re.IGNORECASE)
_FAILED_MEMBER = re.compile(
    rb'"(?:finish|stop|done)_reason"\s*:\s*(?:"[^"\\]*(?:' + _WORDS + rb')|\{\s*"type"\s*:\s*"(?:abort|error))',
    re.IGNORECASE,
)


def is_failed(reason: str | None) -> bool:
    """Whether this finish reason means that the engine did not complete the answer."""
    return reason is not None and reason not in _COMPLETE and _FAILED.search(reason) is not None


def tells_failure(line: bytes) -> bool:
    """Whether a line of a stream may end the answer with the reason of a failure.

    Text of the model cannot look so, because the quotes inside a JSON text are escaped.
    """
    has_reason = line.count(b'_reason"') != line.count(b'_reason":null')
    return has_reason and _FAILED_MEMBER.search(line) is not None
