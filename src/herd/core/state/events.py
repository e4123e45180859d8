"""Defines all events that the core handles, in the past tense.

`at` is the driver's monotonic clock in seconds. Events are fed to `Dispatcher.handle` one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from herd.core.state.fleet import ModelInfo, ModelName, NodeId, Report
from herd.core.state.nodes.administration import Administration
from herd.core.state.request import Counters, Failure, Request, RequestId


@dataclass(slots=True)
class RequestArrived:
    at: float
    request: Request


@dataclass(slots=True)
class ClientLeft:
    """The client closed its connection, whatever state its request was in."""

    at: float
    request_id: RequestId
    bytes_forwarded: int = 0
    counters: Counters | None = None
    """What was forwarded until then, as far as it could be counted."""


@dataclass(slots=True)
class FirstByte:
    """The first body byte of the answer is about to be forwarded; after it no other node may start a new answer."""

    at: float
    request_id: RequestId
    attempt: int
    without_effect: tuple[str, ...] = ()
    """Fields of the request that the engine was not sent, or that have no effect there."""


@dataclass(slots=True)
class AttemptFinished:
    """The response of the node is complete.

    Without a `FirstByte` before it, the response was forwarded at once. `status` is the status sent to the client (4xx
    is passed through).
    """

    at: float
    request_id: RequestId
    attempt: int
    counters: Counters
    status: int = 200
    bytes_forwarded: int = 0
    without_effect: tuple[str, ...] = ()
    """As in `FirstByte`, for a response without one before it."""


@dataclass(slots=True)
class AnswerRepaired:
    """Tool calls of the answer, or tool schemas of the request, were repaired; `repairs` says what, for people."""

    at: float
    request_id: RequestId
    attempt: int
    repairs: str


@dataclass(slots=True)
class AttemptFailed:
    at: float
    request_id: RequestId
    attempt: int
    failure: Failure


@dataclass(slots=True)
class HeartbeatReceived:
    at: float
    report: Report


@dataclass(slots=True)
class ModelsChanged:
    """A node's engine has confirmed a change: the models that are on the node now, and those that are gone (None)."""

    at: float
    node_id: NodeId
    changes: Mapping[ModelName, ModelInfo | None]


@dataclass(slots=True)
class NodeAdministered:
    """An administrator has changed what is set for a node, which may be away; None: nothing is set any more."""

    at: float
    node_id: NodeId
    administration: Administration | None


@dataclass(slots=True)
class EngineSilent:
    """An engine of a node without heartbeats has not answered the coordinator for `silent_s`; 0: it answers again."""

    at: float
    node_id: NodeId
    url: str
    silent_s: float


@dataclass(slots=True)
class NodeLeft:
    """The agent sent a goodbye, or an admin removed the node."""

    at: float
    node_id: NodeId
    boot_id: str = ""


@dataclass(slots=True)
class LatencyRestored:
    """A stored latency was read at the start, so that learned latencies survive a restart."""

    at: float
    node_id: NodeId
    model: str
    latency_s: float


@dataclass(slots=True)
class DrainStarted:
    """The coordinator shuts down: new requests are refused, running requests may finish."""

    at: float


@dataclass(slots=True)
class Ticked:
    """The time that `next_wakeup()` returned has come."""

    at: float


Event = (
    RequestArrived
    | ClientLeft
    | FirstByte
    | AttemptFinished
    | AnswerRepaired
    | AttemptFailed
    | HeartbeatReceived
    | ModelsChanged
    | NodeAdministered
    | EngineSilent
    | NodeLeft
    | LatencyRestored
    | DrainStarted
    | Ticked
)
