"""Decides which nodes may take a request after a failed attempt.

A node on which an attempt failed gets no other one. Only if no other node can answer, now or soon, a node that was lost
gets one more: it may be back already, or within the wait. So each node has at most two attempts that it lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from herd.core.lifecycle.admission import can_waiting_help
from herd.core.scheduling.scheduler import Scheduler
from herd.core.state.fleet import NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import Attempt, Failure, FailureKind

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
    """The nodes that may not take the next attempt. It notes which nodes were lost and which of them return."""

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
    if not again:
        return NextNodes(excluded, False)
    live_request.lost, live_request.returned = (), (*live_request.returned, *again)
    excluded = tuple(node_id for node_id in excluded if node_id not in again)
    return NextNodes(excluded, is_possible(excluded))
