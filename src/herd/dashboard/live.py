"""What is said over the one WebSocket (and as server-sent events): topics, snapshots, deltas, numbers in sequence.

A client says `Subscribe`; for each topic it gets a `snapshot`, then `delta`s. `seq` counts by one within a topic and is the same
for every client: who sees a gap says `Subscribe` again. A topic that is not named any more falls silent.
"""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard.nodes import NodeCard
from herd.dashboard.requests import ActiveRequest

TOPICS = ("fleet", "requests", "jobs")


class Subscribe(Struct, frozen=True):
    """Client to server. The whole list of what is wanted from now on; [] while the tab is hidden."""

    sub: tuple[str, ...]


class LiveNumbers(Struct, frozen=True):
    """The numbers of now: those of the overview that need no database."""

    running: int
    waiting: int
    tokens_per_s: float
    ttft_p50_ms: float | None
    level: str
    sentence: str


class FleetData(Struct, frozen=True):
    """Topic "fleet", once a second. In a snapshot `nodes` is every card; in a delta those that changed, whole but for `availability`
    (None: as before), and `gone` those that are no more. Where nothing changed the delta has neither."""

    pulse: LiveNumbers
    nodes: tuple[NodeCard, ...]
    gone: tuple[str, ...] = ()


class RequestEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a request. `what`: "arrived", "waiting", "routed", "first", "retried" or "ended" (with `status`)."""

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
    """Topic "requests", at most five times a second. A snapshot has `live`, everybody who is here; a delta has `moved`, in order.
    `skipped` counts those that were too many to tell one by one."""

    live: tuple[ActiveRequest, ...] = ()
    moved: tuple[RequestEvent, ...] = ()
    skipped: int = 0


class Job(Struct, frozen=True, kw_only=True):
    """A pull, a delete, a load or a benchmark. `kind` and `state` are words: state is "queued", "running", "done", "failed" or
    "cancelled". `done` and `total` count in `unit` ("bytes", "requests"); total 0 where it is not known."""

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
    """Topic "jobs", at most once a second. A snapshot has all that run and the latest that ended; a delta those that changed."""

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
    """What a client said made no sense; the connection stays."""

    type: str
    message: str


MESSAGES = (FleetMessage, RequestsMessage, JobsMessage, LiveError)
