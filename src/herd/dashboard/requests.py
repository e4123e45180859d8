"""Defines the answers about requests: active requests, finished requests, and the details of one request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from msgspec import Struct

from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.state.live_request import LiveRequest
from herd.dashboard import DashboardRoute

KeyName: TypeAlias = Callable[[str], str]
"""The name of the API key with an id, as people gave it."""


class ActiveRequest(Struct, frozen=True, kw_only=True):
    """A request that has not ended. `state`: "held" (no node can serve it yet), "pending" (in the queue of `node_id`),
    "dispatched" or "streaming". `position`, `waits_for` and `expected_wait_s` are set while it waits. `app` is its
    tag, app or key; "" for none."""

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
    """A request that ended. `why` is the reason for the node in a few words: "estimated 2.1 s faster than studio",
    "only available node"."""

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
    """`GET traces?limit=&node_id=&model=&status=&tag=&user=&since=&until=&before_id=`. `traces` are complete rows of
    the table `request_traces`, newest first; `next_before_id` is the `before_id` of the next page, None on the last
    page."""

    traces: tuple[dict[str, object], ...]
    next_before_id: int | None


class CandidateLine(Struct, frozen=True, kw_only=True):
    """A node that could serve the request. `terms_ms` (wait, load, prefill, decode, harm) add up to `expected_ms`; they
    are {} and None if no time was estimated. `signals` has the points of each signal, which add up to `points`."""

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
    """A node that could not serve the request, the filter that rejected it, and the reason with its numbers."""

    node_id: str
    filter: str
    reason: str


class DecisionDetails(Struct, frozen=True):
    """One routing decision. `otherwise` are sentences about what would have changed the choice. `left_out` counts
    candidates that are not recorded."""

    attempt: int
    policy: str
    chosen: str | None
    candidates: tuple[CandidateLine, ...]
    ruled_out: tuple[RejectedLine, ...]
    left_out: int
    otherwise: tuple[str, ...]


class Phase(Struct, frozen=True):
    """A phase on the request's time axis. `phase`: "received", "waiting" (queue), "connect" (with the engine's own
    queue), "load", "reading" (prefill), "writing" (decode), or "failed" for an attempt without output. `is_measured` is
    false where the engine did not report when it ended."""

    phase: str
    start_ms: float
    ms: float
    is_measured: bool


class AttemptPhases(Struct, frozen=True):
    """One attempt; attempt 0 is the time before the first. `outcome` is "served", "failed" or "left" (the client
    disconnected); `goes_on` is true where the attempt continued the partial answer of an earlier one."""

    attempt: int
    node_id: str
    outcome: str
    goes_on: bool
    problem: str
    spans: tuple[Phase, ...]


class RequestDetails(Struct, frozen=True, kw_only=True):
    """`GET requests/<id>`: one request. The phases of all attempts (`lanes`) add up to `total_ms`. `rows` are its rows
    in `request_traces`."""

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
    lanes: tuple[AttemptPhases, ...]
    choices: tuple[DecisionDetails, ...]
    rows: tuple[dict[str, object], ...]


ROUTES = (DashboardRoute("GET", "traces", Traces), DashboardRoute("GET", "requests/{request_id}", RequestDetails))


def active_request(
    live_request: LiveRequest, queued: QueuePosition | None, now: float, key_name: KeyName
) -> ActiveRequest:
    """`queued` is the request's position if it waits. The answer has neither the prompt nor the client's address."""
    request = live_request.request
    expected_s = queued.expected_wait_s if queued is not None else None
    return ActiveRequest(
        request_id=request.id,
        model=live_request.model,
        app=app_name(request.tags, request.app, key_name(request.key_id)),
        state=live_request.state.value,
        node_id=node_of(live_request),
        age_s=round(now - live_request.arrived_at, 3),
        attempt=live_request.attempts,
        position=queued.position if queued else None,
        waits_for=queued.waits_for if queued else None,
        expected_wait_s=round(expected_s, 1) if expected_s is not None else None,
        estimated_tokens=request.prompt_tokens,
    )


def app_name(tags: Sequence[object], app: str, key: str) -> str:
    """The request's first tag, else the app that its headers name, else the name of its key; "" for none.

    A tag for a user names an app only if nothing else does.
    """
    tag = str(tags[0]) if tags else ""
    if tag and not (app and tag.startswith("user:")):
        return tag
    return app or (f"key {key}" if key else "")


def node_of(live_request: LiveRequest) -> str | None:
    """The node that runs the request, or in whose queue it waits."""
    if live_request.attempt is not None and live_request.is_running:
        return live_request.attempt.node_id
    return live_request.queue.node_id if live_request.queue is not None else None
