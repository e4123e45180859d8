"""A request while it lives: its state, its place, its attempts. Decides nothing; the dispatcher moves it along.

The states and what leads from one to the next are this table; `docs/request-life.md` is drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from herd.core.state.decision import Decision
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.queues import Queue
from herd.core.state.request import Attempt, Request


class RequestState(Enum):
    HELD = "held"
    PENDING = "pending"
    DISPATCHED = "dispatched"
    STREAMING = "streaming"
    ENDED = "ended"


TRANSITIONS: tuple[tuple[str, str, str, str], ...] = (
    ("-", "RequestArrived", "dispatched, pending, held or ended", "Dispatch, Hold, or Refuse and Record"),
    ("held", "a node could take it", "dispatched or pending", "Dispatch or Hold"),
    ("held", "waited too long", "ended", "Refuse, Record rejected"),
    ("pending", "its turn came", "dispatched", "Dispatch"),
    ("pending", "its node left", "dispatched, pending or held", "Dispatch or Hold"),
    ("dispatched", "FirstByte", "streaming", "-"),
    ("dispatched", "AttemptFinished", "ended", "Record completed"),
    ("dispatched", "AttemptFailed, may retry", "dispatched, pending or held", "Record retried, Dispatch or Hold"),
    ("dispatched", "AttemptFailed, no more", "ended", "Refuse, Record failed"),
    ("streaming", "AttemptFinished", "ended", "Record completed"),
    ("streaming", "AttemptFailed, can continue", "dispatched, pending or held", "Record retried, Dispatch or Hold"),
    ("streaming", "AttemptFailed", "ended", "Abort with an error frame, Record failed_midstream"),
    (
        "dispatched, streaming",
        "its client's deadline",
        "ended",
        "Abort with 504 or an error frame, Record failed or failed_midstream",
    ),
    ("any", "ClientLeft", "ended", "Abort if it runs, Record client_cancelled"),
)
"""State, event, next state, commands."""


@dataclass(slots=True, eq=False)
class LiveRequest:
    """One admitted request. `models` is what may answer it, the one asked for first."""

    request: Request
    arrived_at: float
    models: tuple[ModelName, ...]
    state: RequestState = RequestState.HELD
    decision: Decision | None = None
    attempt: Attempt | None = None
    attempts: int = 0
    strikes: int = 0
    """Attempts that a node accepted and then failed."""
    crashes: int = 0
    """Nodes that broke off at this request before a first byte: two are enough to suspect the request."""
    tried: tuple[NodeId, ...] = ()
    needs_budget: bool = False
    """Its next attempt is a repetition that counts: it waits while too many of those run."""
    queue: Queue | None = None
    late_at: float = 0.0
    """When the running attempt should have sent its first byte."""
    hold_until: float = 0.0
    has_waited: bool = False
    """It was given a place among those who wait once, and is not asked again whether its tenant may have one."""
    dispatched_at: float | None = None
    first_byte_at: float | None = None
    """When the client was sent its first byte, by whichever node; from then on only a continuation can help."""

    @property
    def is_waiting(self) -> bool:
        return self.state is RequestState.HELD or self.state is RequestState.PENDING

    @property
    def is_running(self) -> bool:
        return self.state is RequestState.DISPATCHED or self.state is RequestState.STREAMING

    @property
    def retries(self) -> int:
        return max(0, self.attempts - 1)

    @property
    def model(self) -> ModelName:
        """The model that answers, or would."""
        return self.decision.model if self.decision is not None else self.models[0]
