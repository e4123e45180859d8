"""Defines all commands of the core to the driver, in the imperative.

`Dispatch`, `Refuse`, `GiveUp` and `Abort` go to the relay that holds the client connection of the request. `Hold`
may be shown to a waiting client, and `Record` goes to the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo, ModelName, NodeId
from herd.core.state.request import Attempt, Counters, Failure, Outcome, Request, RequestId
from herd.errors import Refusal


@dataclass(slots=True, kw_only=True)
class Dispatch:
    """Send the request to this node now, to `model_info.engine.url`.

    `model_info.name` is the model's name as that engine spells it.
    """

    request_id: RequestId
    attempt: int
    node_id: NodeId
    model: ModelName
    model_info: ModelInfo
    score: float
    retries: int
    fallback: ModelName | None
    """The model that answers instead of the requested one, or None."""
    options: EngineOptions | None = None
    """Engine options to set in the request; None: the request is sent unchanged."""
    silence_s: float = 0.0
    """How long the engine may be silent in the middle of its answer, if longer than the usual timeout."""
    pace_s: float = 0.0
    """How much silence in the middle of the answer its pace explains; 0 if no other node could continue it."""
    affinity: str = ""
    """How much of the conversation the node has probably cached: "matched", "prefix" or "new"; empty if unknown."""


@dataclass(slots=True)
class Hold:
    """The request waits. `position` counts from 1 among the requests that wait for the same slot or node."""

    request_id: RequestId
    position: int
    reason: str


@dataclass(slots=True)
class Refuse:
    """Answer the client with an error. The request has ended; a `Record` follows."""

    request_id: RequestId
    refusal: Refusal


@dataclass(slots=True)
class GiveUp:
    """Report the attempt as failed if it has been silent for `quiet_s`, and engines of `kinds` can continue it."""

    request_id: RequestId
    attempt: int
    failure: Failure
    quiet_s: float
    kinds: frozenset[str]


@dataclass(slots=True)
class Abort:
    """Close the upstream connection of this attempt at once.

    With `refusal` the client is still connected: end its stream with the dialect's error frame, or answer with the
    error if nothing was forwarded yet. Without `refusal` the client has left.
    """

    request_id: RequestId
    attempt: int
    refusal: Refusal | None = None


@dataclass(slots=True)
class LoadModel:
    """Load the model on this node in advance. A failure has no consequences."""

    node_id: NodeId
    model: ModelName
    model_info: ModelInfo


@dataclass(slots=True, kw_only=True)
class Record:
    """Store one trace row. Each admitted request has exactly one row with an outcome other than RETRIED."""

    at: float
    request: Request
    outcome: Outcome
    arrived_at: float
    model: ModelName
    decision: Decision | None = None
    attempt: Attempt | None = None
    counters: Counters = field(default_factory=Counters)
    retries: int = 0
    fallback_used: bool = False
    excluded: tuple[NodeId, ...] = ()
    error: str = ""
    first_byte_at: float | None = None
    """When the first byte was sent to the client, from any attempt."""
    held_s: float = 0.0
    """How long the request waited before its first dispatch, or before its end."""


@dataclass(slots=True)
class Alarm:
    """An internal invariant is violated, which is a bug. The driver logs and counts it; in a test it is a failure."""

    message: str


Command = Dispatch | Hold | Refuse | GiveUp | Abort | LoadModel | Record | Alarm
