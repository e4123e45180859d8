"""Requests that live, requests that ended, and the whole story of one. Knows no tab."""

from __future__ import annotations

from msgspec import Struct

from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.state.live_request import LiveRequest
from herd.dashboard import DashboardRoute

KEY_CHARACTERS_SHOWN = 8


class ActiveRequest(Struct, frozen=True, kw_only=True):
    """One that is here now. `state`: "held", "pending" (in `node_id`'s queue), "dispatched" or "streaming". The place, the reason
    and the estimate are of those who wait. `app` is its tag, user or key; "" for none."""

    request_id: str
    model: str
    app: str
    state: str
    node_id: str | None
    age_s: float
    attempt: int
    position: int | None
    waits_for: str | None
    expected_wait_s: float | None
    estimated_tokens: int


class FinishedRequest(Struct, frozen=True, kw_only=True):
    """One that ended, in a line. `why` is half a sentence: "2.1 s sooner than studio", "the only one that could"."""

    request_id: str
    ended_at: float
    model: str
    app: str
    node_id: str
    status: str
    latency_ms: float | None
    ttft_ms: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    retries: int
    why: str


class Traces(Struct, frozen=True):
    """`GET traces?limit=&node_id=&model=&status=&tag=&since=&until=&before_id=`. `traces` are whole rows under the names of the
    table `request_traces`, newest first; `next_before_id` asks for the page after, None at the end."""

    traces: tuple[dict[str, object], ...]
    next_before_id: int | None


class CandidateLine(Struct, frozen=True, kw_only=True):
    """A node that could have served. `terms_ms` sum up to `expected_ms`: wait, load, prefill, decode, harm; None and {} where
    seconds were not estimated. `signals` has the seven signals in points, they sum up to `points`."""

    node_id: str
    is_chosen: bool
    expected_ms: float | None
    terms_ms: dict[str, float]
    points: float | None
    signals: dict[str, float]
    running: int
    pending: int
    is_loaded: bool
    size_bytes: int
    free_bytes: int
    window_tokens: int | None


class RejectedLine(Struct, frozen=True):
    """A node that could not, the filter that ended it, and the reason with its numbers."""

    node_id: str
    filter: str
    reason: str


class DecisionDetails(Struct, frozen=True):
    """One decision. `otherwise` are sentences: what would have changed it. `left_out` candidates are not on record."""

    attempt: int
    policy: str
    chosen: str | None
    candidates: tuple[CandidateLine, ...]
    ruled_out: tuple[RejectedLine, ...]
    left_out: int
    otherwise: tuple[str, ...]


class Phase(Struct, frozen=True):
    """A phase on the request's own time axis. `phase`: "received", "waiting", "connect", "load", "reading", "writing", or "failed"
    for an attempt that came to nothing. `is_measured` is false where the engine did not say where one phase ends."""

    phase: str
    start_ms: float
    ms: float
    is_measured: bool


class Lane(Struct, frozen=True):
    """One attempt (number 0: before any node had it). `outcome` is "served", "failed" or "left"; `goes_on` where it wrote on
    from what an earlier one had streamed."""

    attempt: int
    node_id: str
    outcome: str
    goes_on: bool
    problem: str
    spans: tuple[Phase, ...]


class RequestDetails(Struct, frozen=True, kw_only=True):
    """`GET requests/<id>`: one request. The spans of all lanes sum up to `total_ms`. `rows` are the rows it is told from."""

    request_id: str
    sentence: str
    status: str
    model: str
    model_asked: str
    node_id: str
    app: str
    client_ip: str
    dialect: str
    kind: str
    is_stream: bool
    ended_at: float
    total_ms: float
    ttft_ms: float | None
    prompt_tokens: int | None
    estimated_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    tokens_per_s: float | None
    finish_reason: str | None
    problem: str
    lanes: tuple[Lane, ...]
    choices: tuple[DecisionDetails, ...]
    rows: tuple[dict[str, object], ...]


ROUTES = (DashboardRoute("GET", "traces", Traces), DashboardRoute("GET", "requests/{request_id}", RequestDetails))


def active_request(live: LiveRequest, place: QueuePosition | None, now: float) -> ActiveRequest:
    """`place` is where it stands if it waits. No prompt, no address."""
    request = live.request
    expected_s = place.expected_wait_s if place is not None else None
    return ActiveRequest(
        request_id=request.id,
        model=live.model,
        app=app_name(request.tags, request.key_id),
        state=live.state.value,
        node_id=node_of(live),
        age_s=round(now - live.arrived_at, 3),
        attempt=live.attempts,
        position=place.position if place else None,
        waits_for=place.waits_for if place else None,
        expected_wait_s=round(expected_s, 1) if expected_s is not None else None,
        estimated_tokens=request.prompt_tokens,
    )


def app_name(tags: tuple[str, ...], key_id: str) -> str:
    """What a request says of itself, else whose key it has; "" for neither."""
    return tags[0] if tags else f"key {key_id[:KEY_CHARACTERS_SHOWN]}" if key_id else ""


def node_of(live: LiveRequest) -> str | None:
    """Where it runs, or in whose queue it is."""
    if live.attempt is not None and live.is_running:
        return live.attempt.node_id
    return live.queue.node_id if live.queue is not None else None
