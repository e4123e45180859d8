"""Defines the messages of the live WebSocket, which are also sent as server-sent events.

A client sends `Subscribe`. For each topic it gets a `snapshot`, then `delta`s. `seq` increases by one within a topic
and is the same for every client: a client that sees a gap sends `Subscribe` again. A topic that is no longer listed
sends nothing.
"""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard.nodes import NodeCard
from herd.dashboard.requests import ActiveRequest

TOPICS = ("fleet", "requests", "jobs")


class Subscribe(Struct, frozen=True):
    """Client to server: the complete list of topics, replacing the last one; [] while the tab is hidden."""

    sub: tuple[str, ...]


class LiveNumbers(Struct, frozen=True):
    """The numbers of the overview that need no database."""

    running: int
    waiting: int
    tokens_per_s: float
    ttft_p50_ms: float | None
    level: str
    sentence: str


class FleetData(Struct, frozen=True):
    """Topic "fleet", once a second. A snapshot has every node card. A delta has the cards that changed, complete except
    for `availability` (None: unchanged), and in `gone` the nodes that were removed; both are empty where nothing
    changed."""

    pulse: LiveNumbers
    nodes: tuple[NodeCard, ...]
    gone: tuple[str, ...] = ()


class RequestEvent(Struct, frozen=True, kw_only=True):
    """An event of a request. `what`: "arrived", "waiting", "routed", "first" (first token), "retried" or "ended" (with
    `status`)."""

    what: str
    at: float
    request_id: str
    model: str
    app: str
    node_id: str
    status: str = ""
    completion_tokens: int = 0
    latency_ms: float = 0.0


class RequestsData(Struct, frozen=True):
    """Topic "requests", at most five times a second. A snapshot has all active requests in `live`; a delta has events
    in `moved`, oldest first. `skipped` counts events that were left out because there were too many."""

    live: tuple[ActiveRequest, ...] = ()
    moved: tuple[RequestEvent, ...] = ()
    skipped: int = 0


class Job(Struct, frozen=True, kw_only=True):
    """A pull, a delete, a load or a benchmark. `state`: "queued", "running", "done", "failed" or "cancelled". `done`
    and `total` are in `unit` ("bytes" or "requests"); `total` is 0 where it is unknown."""

    job_id: str
    kind: str
    title: str
    node_id: str
    state: str
    done: int
    total: int
    unit: str
    started_at: float
    ended_at: float | None
    message: str
    may_cancel: bool


class JobsData(Struct, frozen=True):
    """Topic "jobs", at most once a second. A snapshot has the running jobs and the latest ended ones; a delta has the
    changed jobs."""

    jobs: tuple[Job, ...]


class FleetMessage(Struct, frozen=True):
    """`type` is "snapshot" or "delta"."""

    type: str
    topic: str
    seq: int
    at: float
    data: FleetData


class RequestsMessage(Struct, frozen=True):
    type: str
    topic: str
    seq: int
    at: float
    data: RequestsData


class JobsMessage(Struct, frozen=True):
    type: str
    topic: str
    seq: int
    at: float
    data: JobsData


class LiveError(Struct, frozen=True):
    """The reply to an invalid message; the connection stays open."""

    type: str
    message: str


MESSAGES = (FleetMessage, RequestsMessage, JobsMessage, LiveError)
