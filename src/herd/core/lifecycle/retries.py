"""Decides whether another attempt may follow a failed one and on which nodes, and how long its first byte may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from herd.core.context.windows import need_tokens
from herd.core.lifecycle.admission import can_waiting_help
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.fleet import NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import Attempt, Failure, FailureKind, Request


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
    at most twice (`next_nodes`), so their number is limited by the number of nodes.
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


_CLOSED: Final = (FailureKind.RESET, FailureKind.CLOSED)


def note_loss(live_request: LiveRequest, attempt: Attempt, failure: Failure) -> None:
    """Notes a lost node for a second attempt, unless it had one.

    A frozen engine is not noted: it would hold the request again. An engine that ended where another one had ended, or
    before it had answered anything, may have crashed because of the request: after that, no node gets it again.
    """
    is_closed, has_progressed = failure.kind in _CLOSED, failure.bytes_forwarded > live_request.lost_bytes
    if is_closed and not has_progressed:
        live_request.lost, live_request.tried = (), (*live_request.tried, *live_request.returned)
        live_request.may_return = False
    is_lost = is_closed or failure.kind is FailureKind.NODE_LOST
    if is_lost and live_request.may_return and attempt.node_id not in live_request.returned:
        live_request.lost = (*live_request.lost, attempt.node_id)
    live_request.lost_bytes = max(live_request.lost_bytes, failure.bytes_forwarded)


@dataclass(frozen=True, slots=True)
class NextNodes:
    """`excluded` may not take the request; `is_possible` if another node can, now or soon."""

    excluded: tuple[NodeId, ...]
    is_possible: bool


def next_nodes(
    live_request: LiveRequest, attempt: Attempt, failure: Failure, scheduler: Scheduler, now: float
) -> NextNodes:
    """The nodes that may not take the next attempt. It notes which nodes were lost and which of them return.

    A node on which an attempt failed gets no other one. Only if several were tried and no other node can answer, now or
    soon, each that was lost gets one more: it may be back already, or within the wait.
    """

    def is_possible(excluded: tuple[NodeId, ...]) -> bool:
        decision = scheduler.decide(live_request.request, attempt.model, now, excluded)
        return decision.chosen is not None or can_waiting_help(decision)

    if failure.kind is FailureKind.CONNECT:
        # Nothing was sent, and the node may be back within the wait.
        return NextNodes(live_request.tried, is_possible(live_request.tried))
    note_loss(live_request, attempt, failure)
    excluded = (*live_request.tried, attempt.node_id)
    if is_possible(excluded):
        return NextNodes(excluded, True)
    again = live_request.lost
    if not again or len(excluded) < 2:
        return NextNodes(excluded, False)
    live_request.lost, live_request.returned = (), (*live_request.returned, *again)
    excluded = tuple(node_id for node_id in excluded if node_id not in again)
    return NextNodes(excluded, is_possible(excluded))
