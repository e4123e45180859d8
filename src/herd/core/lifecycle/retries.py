"""Whether a failed attempt may be followed by another. Knows nothing of which node that would be."""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.state.request import Failure, FailureKind


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
            "help": "Maximum share of running requests that may be retries; further retries wait.",
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


SLOW_PREFILL_TOKENS_PER_S = 20.0
"""A prompt speed that even an old processor reaches; only used to be patient enough."""
SLOW_LOAD_BYTES_PER_S = 50_000_000.0
"""A load speed that even a spinning disk reaches."""


def first_byte_patience_s(settings: RetrySettings, stream: bool, prompt_tokens: int, load_bytes: int) -> float:
    """How long a node may take before its first byte: generous, since a dead node is noticed by other means too."""
    if not stream:
        return settings.whole_answer_s
    return settings.first_byte_s + prompt_tokens / SLOW_PREFILL_TOKENS_PER_S + load_bytes / SLOW_LOAD_BYTES_PER_S


CRASHES_MAX = 2
"""A request at which two different nodes broke off is not tried on a third: it may be what breaks them."""

_CRASHES = (FailureKind.RESET, FailureKind.CLOSED)


def is_crash(failure: Failure) -> bool:
    """Whether the node broke off before it had said anything."""
    return failure.kind in _CRASHES and not failure.bytes_forwarded


def may_retry(settings: RetrySettings, failure: Failure, strikes: int) -> bool:
    """Only while nothing was forwarded or the rest can be written elsewhere, and only so often.

    A refused connection costs nothing and is no strike.
    """
    if failure.bytes_forwarded and not failure.continuation_kinds:
        return False
    return failure.kind is FailureKind.CONNECT or strikes <= settings.retries_max


_LOST = (FailureKind.CONNECT, FailureKind.RESET, FailureKind.CLOSED, FailureKind.NODE_LOST)


def needs_budget(failure: Failure, attempts: int) -> bool:
    """Whether the next attempt counts against the budget.

    A budget keeps retries from turning a slow fleet into a dead one. The first move of a request whose node is gone does not
    do that: what ran there runs elsewhere, behind that node's slots like everybody else. Whatever fails a second time, or
    on a node that lives, does.
    """
    return attempts > 1 or failure.kind not in _LOST


def has_budget(settings: RetrySettings, retrying: int, running: int) -> bool:
    """Whether one more repeated attempt may run beside those that do."""
    return retrying < max(settings.budget_min, int(settings.budget_share * running))


FIRST_BYTE_MIN_S = 30.0
PREDICTION_FACTOR = 3.0


def predicted_patience_s(generous_s: float, load_s: float, prefill_s: float) -> float:
    """How long a node whose speed is known may take before its first byte: three times what is expected, at least half a
    minute, never more than an unknown one may."""
    return min(generous_s, max(FIRST_BYTE_MIN_S, PREDICTION_FACTOR * (load_s + prefill_s)))
