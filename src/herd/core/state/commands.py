"""Everything the core may ask for, in the imperative. Data only; the driver performs it.

`Dispatch`, `Refuse` and `Abort` go to the run of one request (the relay that holds its client connection),
`Hold` may be shown to a waiting client, `Record` goes to the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.core.state.decision import Decision
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import ModelInfo, ModelName, NodeId
from herd.core.state.request import Attempt, Counters, Outcome, Request, RequestId
from herd.errors import Refusal


@dataclass(slots=True)
class Dispatch:
    """Send the request to this node now. `card.engine.url` is where, `card.name` how that engine spells the model."""

    request_id: RequestId
    attempt: int
    node_id: NodeId
    model: ModelName
    card: ModelInfo
    score: float
    retries: int
    fallback: ModelName | None
    """The model that answers in the place of the one asked for, or None."""
    options: EngineOptions | None = None
    """What is said of the window; None where the request goes as it is."""


@dataclass(slots=True)
class Hold:
    """The request waits: `position` counts from 1 among those waiting for the same thing, `reason` is a sentence."""

    request_id: RequestId
    position: int
    reason: str


@dataclass(slots=True)
class Refuse:
    """Tell the client no. Its request has ended; a `Record` follows."""

    request_id: RequestId
    refusal: Refusal


@dataclass(slots=True)
class Abort:
    """Close the upstream connection of this attempt, at once; nobody wants the rest.

    With `refusal` the client is still there: end its stream with the dialect's error frame, or answer with it
    if nothing was forwarded yet. Without, the client is gone.
    """

    request_id: RequestId
    attempt: int
    refusal: Refusal | None = None


@dataclass(slots=True)
class LoadModel:
    """Have this node load the model, though nobody was sent there yet; nothing follows if it does not."""

    node_id: NodeId
    model: ModelName
    card: ModelInfo


@dataclass(slots=True)
class Record:
    """One row for the store. Exactly one with `outcome` other than RETRIED per admitted request."""

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
    """When the client was sent its first byte, by whichever attempt."""
    held_s: float = 0.0
    """How long it waited before the first dispatch (or its end)."""


@dataclass(slots=True)
class Alarm:
    """Something is so that should never be: a bug of ours. To be logged and counted; in a test a failure."""

    message: str


Command = Dispatch | Hold | Refuse | Abort | LoadModel | Record | Alarm
