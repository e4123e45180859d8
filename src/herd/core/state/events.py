"""Everything that can happen to the coordinator, in the past tense. Data only.

`at` is the driver's monotonic clock in seconds. Events are fed to `Dispatcher.handle` one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from herd.core.state.fleet import NodeId, Report
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
    """What it was told until then, as far as that can be counted."""


@dataclass(slots=True)
class FirstByte:
    """The first body byte of the answer is about to be forwarded; from here on no other node may answer."""

    at: float
    request_id: RequestId
    attempt: int


@dataclass(slots=True)
class AttemptFinished:
    """The node answered whole: terminator seen. Without a FirstByte before it, it was forwarded whole. `status` is what the client was sent (4xx answers are passed through)."""

    at: float
    request_id: RequestId
    attempt: int
    counters: Counters
    status: int = 200
    bytes_forwarded: int = 0


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
class NodeLeft:
    """The agent said goodbye, or a person removed the node."""

    at: float
    node_id: NodeId
    boot_id: str = ""


@dataclass(slots=True)
class LatencyRestored:
    """A past observation read from the store at start, so that a restart does not forget what was learnt."""

    at: float
    node_id: NodeId
    model: str
    latency_s: float


@dataclass(slots=True)
class DrainStarted:
    """The coordinator is asked to end: nothing new is admitted, what runs may finish."""

    at: float


@dataclass(slots=True)
class Ticked:
    """A moment the core asked for through `next_wakeup()` has come."""

    at: float


Event = (
    RequestArrived
    | ClientLeft
    | FirstByte
    | AttemptFinished
    | AttemptFailed
    | HeartbeatReceived
    | NodeLeft
    | LatencyRestored
    | DrainStarted
    | Ticked
)
