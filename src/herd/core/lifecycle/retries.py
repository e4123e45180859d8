"""Decides whether another attempt may follow a failed one, and how long an attempt may take before its first byte."""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.context.windows import need_tokens
from herd.core.state.request import Failure, FailureKind, Request


@dataclass(frozen=True, slots=True)
class RetrySettings:
    retries_max: int = field(
        default=2,
        metadata={
            "env": "FLEET_MAX_RETRIES",
            "help": "Maximum number of retries on other nodes, before any part of the answer was forwarded.",
        },
    )
    budget_share: float = field(
        default=0.2,
        metadata={
            "env": "FLEET_RETRY_BUDGET_SHARE",
            "min": 0.0,
            "max": 1.0,
            "help": "Maximum share of running requests that may be retries; more wait while all slots are busy.",
        },
    )
    budget_min: int = field(
        default=3,
        metadata={
            "env": "FLEET_RETRY_BUDGET_MIN",
            "help": "Number of retries that may always run at the same time.",
            "min": 0,
        },
    )
    first_byte_s: float = field(
        default=60.0,
        metadata={
            "env": "FLEET_FIRST_BYTE_TIMEOUT",
            "help": "Timeout in seconds for the first byte, plus time for model load and prefill.",
        },
    )
    whole_answer_s: float = field(
        default=600.0, metadata={"env": "FLEET_STALE_TIMEOUT", "help": "Timeout in seconds for a non-streamed answer."}
    )
    silence_max_s: float = field(
        default=1800.0,
        metadata={
            "env": "FLEET_SILENCE_MAX",
            "min": 0.0,
            "help": (
                "Longest silence in seconds in the middle of an answer with tools, a schema or thinking; how long is "
                "allowed follows from the model's speed, at least FLEET_STALL_TIMEOUT."
            ),
        },
    )


SLOW_PREFILL_TOKENS_PER_S = 20.0
"""A prompt speed that even an old processor reaches; used only for timeouts."""
SLOW_LOAD_BYTES_PER_S = 50_000_000.0
"""A load speed that even a hard disk reaches; used only for timeouts."""


def first_byte_timeout_s(settings: RetrySettings, stream: bool, prompt_tokens: int, load_bytes: int) -> float:
    """Timeout for the first byte: long, because a dead node is also noticed by missing heartbeats."""
    if not stream:
        return settings.whole_answer_s
    return settings.first_byte_s + prompt_tokens / SLOW_PREFILL_TOKENS_PER_S + load_bytes / SLOW_LOAD_BYTES_PER_S


_STRIKES = (
    FailureKind.SERVER_ERROR,
    FailureKind.MODEL_CRASHED,
    FailureKind.GARBAGE,
    FailureKind.TRUNCATED,
    FailureKind.STALLED,
    FailureKind.FIRST_BYTE_TIMEOUT,
    FailureKind.INTERNAL,
)


def is_strike(failure: Failure) -> bool:
    """Whether the request may have caused the failure, so that it counts against the number of retries.

    A lost node, a busy one, and one that cannot serve the request say nothing about the request. Each node is tried
    at most twice (`second_chances`), so their number is limited by the number of nodes.
    """
    return failure.kind in _STRIKES


def may_retry(settings: RetrySettings, failure: Failure, strikes: int) -> bool:
    """Whether nothing was forwarded or another node can continue, and the number of retries is not used up."""
    if failure.bytes_forwarded and not failure.continuation_kinds:
        return False
    return not is_strike(failure) or strikes <= settings.retries_max


def adopt_counted_prompt(request: Request, failure: Failure) -> bool:
    """Replaces the estimated prompt length by the engine's count. Returns whether the count is larger: then a larger
    window on the same node may be enough."""
    need = need_tokens(failure.prompt_tokens, request.output_tokens_max)
    if need <= (request.wanted_window_tokens or 0):
        return False
    request.prompt_tokens, request.wanted_window_tokens = failure.prompt_tokens, need
    return True


_LOST = (FailureKind.CONNECT, FailureKind.RESET, FailureKind.CLOSED, FailureKind.NODE_LOST, FailureKind.FROZEN)


def needs_budget(failure: Failure, attempts: int) -> bool:
    """Whether the next attempt counts against the budget.

    The budget prevents retries from overloading a slow fleet: without a free slot, retries beyond it do not queue
    before other requests. The first retry after a lost node does not count: the request only moves to another node
    and waits for a slot there like any other. A second failure, or a failure on a
    node that is online, counts. An attempt that was not sent does not count.
    """
    if failure.kind is FailureKind.UNSUPPORTED:
        return False
    return attempts > 1 or failure.kind not in _LOST


def has_budget(settings: RetrySettings, retrying: int, running: int) -> bool:
    """Whether one more retry may run beside the running ones."""
    return retrying < max(settings.budget_min, int(settings.budget_share * running))


FIRST_BYTE_TIMEOUT_MIN_S = 30.0
PREDICTION_FACTOR = 3.0


def predicted_timeout_s(max_timeout_s: float, load_s: float, prefill_s: float) -> float:
    """Timeout for the first byte of a node with known speed: three times the expected time, at least 30 s, and at most
    the timeout of a node with unknown speed."""
    return min(max_timeout_s, max(FIRST_BYTE_TIMEOUT_MIN_S, PREDICTION_FACTOR * (load_s + prefill_s)))
