"""Defines a request while it is live: its state, its attempts, and the table of allowed state transitions.

`LiveRequest.move` is the only place that changes a state, and it allows only what `TRANSITIONS` lists. The table "The
life of a request" in ARCHITECTURE.md is generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from herd.core.state.decision import Decision
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.queues import Queue
from herd.core.state.request import Attempt, Request


class RequestState(Enum):
    """HELD waits for any node, PENDING waits for a slot of one node, DISPATCHED was sent and has no first byte yet."""

    ARRIVED = "arrived"
    HELD = "held"
    PENDING = "pending"
    DISPATCHED = "dispatched"
    STREAMING = "streaming"
    ENDED = "ended"

    __hash__ = object.__hash__
    """By identity, as members are compared: the table of transitions is read three times for each request."""


class Trigger(Enum):
    """What can change the state of a request. The values are the words of the table in ARCHITECTURE.md."""

    ARRIVED = "`RequestArrived`"
    RETRIED_HELD = "a heartbeat or a tick: held requests are tried again"
    HOLD_TIMEOUT = "the hold timeout (`FLEET_HOLD_MAX_SECONDS`)"
    QUEUE_TIMEOUT = "the longest wait for busy slots (`FLEET_QUEUE_MAX_SECONDS`)"
    BROKEN = "an exception in the coordinator"
    DRAIN = "`DrainStarted`"
    SLOT_FREE = "a slot of its node is free"
    SLOT_FREE_ELSEWHERE = "a slot of another node is free (rebalancing)"
    NODE_UNAVAILABLE = "its node accepts no more requests"
    FIRST_BYTE = "`FirstByte`, or a complete response"
    FINISHED = "`AttemptFinished`"
    FAILED_RETRY = "`AttemptFailed`, another attempt may follow"
    FAILED_FINAL = "`AttemptFailed`, no other attempt may follow"
    DEADLINE = "the client's deadline"
    CLIENT_LEFT = "`ClientLeft`"

    __hash__ = object.__hash__
    """As for `RequestState`."""


@dataclass(frozen=True, slots=True)
class Transition:
    """From any of `states`, `trigger` leads to one of `next_states`; `commands` describes the commands that follow."""

    states: tuple[RequestState, ...]
    trigger: Trigger
    next_states: tuple[RequestState, ...]
    commands: str


_WAITING = (RequestState.HELD, RequestState.PENDING)
_RUNNING = (RequestState.DISPATCHED, RequestState.STREAMING)
_PLACED = (RequestState.DISPATCHED, RequestState.PENDING, RequestState.HELD, RequestState.ENDED)
"""The next states of a request that is being placed."""
_ENDED = (RequestState.ENDED,)

TRANSITIONS: tuple[Transition, ...] = (
    Transition((RequestState.ARRIVED,), Trigger.ARRIVED, _PLACED, "`Dispatch`, `Hold`, or `Refuse` + `Record`"),
    Transition((RequestState.HELD,), Trigger.RETRIED_HELD, _PLACED, "`Dispatch`, `Hold`, or `Refuse` + `Record`"),
    Transition((RequestState.HELD,), Trigger.HOLD_TIMEOUT, _ENDED, "`Refuse`, `Record`"),
    Transition((RequestState.PENDING,), Trigger.QUEUE_TIMEOUT, _ENDED, "`Refuse` with 503, `Record`"),
    Transition((RequestState.HELD,), Trigger.DRAIN, _ENDED, "`Refuse`, `Record`"),
    Transition((RequestState.PENDING,), Trigger.SLOT_FREE, (RequestState.DISPATCHED,), "`Dispatch`"),
    Transition((RequestState.PENDING,), Trigger.SLOT_FREE_ELSEWHERE, _PLACED, "`Dispatch` or `Hold`"),
    Transition(
        (RequestState.PENDING,), Trigger.NODE_UNAVAILABLE, _PLACED, "`Dispatch`, `Hold`, or `Refuse` + `Record`"
    ),
    Transition((RequestState.DISPATCHED,), Trigger.FIRST_BYTE, (RequestState.STREAMING,), "none"),
    Transition((RequestState.STREAMING,), Trigger.FINISHED, _ENDED, "`Record`"),
    Transition(
        _RUNNING,
        Trigger.FAILED_RETRY,
        _PLACED,
        "`Record` of the attempt, then `Dispatch`, `Hold`, or `Refuse` + `Record`",
    ),
    Transition(_RUNNING, Trigger.FAILED_FINAL, _ENDED, "`Refuse`, or `Abort` with an error frame; `Record`"),
    Transition(_WAITING, Trigger.DEADLINE, _ENDED, "`Refuse` with 504, `Record`"),
    Transition(_RUNNING, Trigger.DEADLINE, _ENDED, "`Abort` with 504 or an error frame, `Record`"),
    Transition((RequestState.ARRIVED, *_WAITING, *_RUNNING), Trigger.BROKEN, _ENDED, "`Refuse`, `Record`"),
    Transition((*_WAITING, *_RUNNING), Trigger.CLIENT_LEFT, _ENDED, "`Abort` if it runs, `Record`"),
)

_NEXT_STATES = MappingProxyType(
    {
        (state, transition.trigger): frozenset(transition.next_states)
        for transition in TRANSITIONS
        for state in transition.states
    }
)
_NONE: frozenset[RequestState] = frozenset()


@dataclass(slots=True, eq=False, kw_only=True)
class LiveRequest:
    """One admitted request. `models` are the models that may answer it; the requested one is first."""

    request: Request
    arrived_at: float
    models: tuple[ModelName, ...]
    state: RequestState = RequestState.ARRIVED
    """Changed by `move` only."""
    decision: Decision | None = None
    attempt: Attempt | None = None
    attempts: int = 0
    strikes: int = 0
    """Failed attempts whose failure the request may have caused."""
    fingerprint: int = 0
    """A salted hash of its body, once a node closed the connection while it processed the request."""
    tried: tuple[NodeId, ...] = ()
    """Nodes that may not take its next attempt."""
    lost: tuple[NodeId, ...] = ()
    """Nodes that were lost under it and may take it once more."""
    lost_bytes: int = 0
    """How much the client had of the answer when a node last failed."""
    may_return: bool = True
    """Whether lost nodes may take it again: no engine's end speaks against it."""
    returned: tuple[NodeId, ...] = ()
    """Nodes that were lost under it and had, or have, their second attempt."""
    needs_budget: bool = False
    """Its next attempt counts against the retry budget: without a free slot it waits while too many retries run."""
    queue: Queue | None = None
    first_byte_deadline_at: float = 0.0
    """When the running attempt times out if it has no first byte by then."""
    hold_until: float = 0.0
    """When the wait for any node ends; set when it begins. Waiting for a slot of a node does not count."""
    held_since: float = 0.0
    held_used_s: float = 0.0
    """How much of the longest wait for any node it has used, since a node last accepted it."""
    waiting_since: float | None = None
    """Since when it is not running; None while it runs."""
    waited_s: float = 0.0
    """All its waits that have ended, before the first attempt and before later ones."""
    has_waited: bool = False
    """It was admitted to a queue once, so the share of its tenant is not checked again."""
    dispatched_at: float | None = None
    first_byte_at: float | None = None
    """When the first byte was sent to the client, from any node; after that only a continuation can replace the
    node."""

    def move(self, trigger: Trigger, state: RequestState) -> None:
        """Changes the state, if the table allows it; any other change is a bug."""
        allowed = _NEXT_STATES.get((self.state, trigger), _NONE)
        assert state in allowed, f"request {self.request.id}: {self.state.value} to {state.value} by {trigger.name}"
        self.state = state

    @property
    def is_waiting(self) -> bool:
        return self.state is RequestState.HELD or self.state is RequestState.PENDING

    @property
    def is_running(self) -> bool:
        return self.state is RequestState.DISPATCHED or self.state is RequestState.STREAMING

    @property
    def retries(self) -> int:
        return self.attempts - 1 if self.attempts else 0

    @property
    def model(self) -> ModelName:
        """The model that answers, or would answer."""
        return self.decision.model if self.decision is not None else self.models[0]
