"""Serves the dashboard's overview, traces, request details, usage and latencies.

Queries run on the store's reading thread, which also encodes the answer.
Each path is also served under `/dashboard/api/v1/` (see `ApiRoute`). The shapes are `herd/dashboard/`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd import __version__
from herd.coordinator.api.fleet_view import FleetView
from herd.coordinator.api.responses import json_errors, query_response
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.storage import queries, today_totals, usage_queries
from herd.coordinator.storage.rollups.backlog import uncounted_since
from herd.coordinator.storage.writer import TraceStore
from herd.dashboard.pages.overview import Overview, OverviewNumbers, setup_steps
from herd.dashboard.request_details import finished_request, request_details
from herd.dashboard.requests import KeyName, Traces
from herd.errors import BadRequest, UnknownModel
from herd.trust.rights import Right

TRACES_DEFAULT = 50
LATEST_SHOWN = 20
TRACES_QUERY = ("limit", "model", "node_id", "status", "tag", "user", "before_id", "since", "until")
NUMBER_MAX = 2**53
"""Largest number in a query: larger ones are not exact in JSON."""


class DashboardApi:
    def __init__(self, driver: Driver, store: TraceStore, view: FleetView, address: Callable[[], str]) -> None:
        """`address()` is where other machines reach this coordinator, "host:port"."""
        self._driver = driver
        self._store = store
        self._view = view
        self._address = address

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/overview", json_errors(self.overview), "GET", Right.READ),
            ApiRoute("/dashboard/api/traces", json_errors(self.traces), "GET", Right.READ, query=TRACES_QUERY),
            ApiRoute("/dashboard/api/requests/{request_id}", json_errors(self.one_request), "GET", Right.READ),
            ApiRoute("/dashboard/api/usage", json_errors(self.usage), "GET", Right.READ, query=("days",)),
            ApiRoute("/dashboard/api/latencies", json_errors(self.latencies), "GET", Right.READ),
        ]

    async def overview(self, _: Request) -> Response:
        """Returns the fleet's summary, key numbers, nodes, live requests and recent requests."""
        view, now, unix_now = self._view, self._driver.now(), time.time()
        cards = tuple(view.cards())
        live = view.live()
        speeds = view.recent_stats.tokens_per_s(now)
        known = LoopState(
            unix_now,
            view.running(),
            view.waiting(),
            round(sum(speeds.values()), 1),
            view.recent_stats.ttft_p50_ms(now),
            midnight(unix_now),
            view.key_name,
        )
        overview = Overview(
            at=unix_now,
            version=__version__,
            verdict=view.summary(list(cards)),
            numbers=OverviewNumbers(0, 0, 0.0, None, 0, 0),
            nodes=cards,
            queue=tuple(one for one in live if one.state in ("held", "pending")),
            running=tuple(one for one in live if one.state not in ("held", "pending")),
            latest=(),
            first_run=(),
        )
        return await query_response(
            self._store, partial(_overview, overview=overview, known=known, address=self._address())
        )

    async def traces(self, request: Request) -> Response:
        """Lists traces, newest first, including attempts. The query parameters filter them."""
        query = request.query_params
        limit = number(query.get("limit"), "limit", TRACES_DEFAULT)
        wanted = queries.TraceFilter(
            node_id=query.get("node_id"),
            model=query.get("model"),
            status=query.get("status"),
            tag=query.get("tag"),
            user=query.get("user"),
            before_id=number(query.get("before_id"), "before_id", None),
            since=number(query.get("since"), "since", None),
            until=number(query.get("until"), "until", None),
        )
        return await query_response(
            self._store, partial(_traces, limit=min(max(limit or 1, 1), queries.TRACES_MAX), wanted=wanted)
        )

    async def one_request(self, request: Request) -> Response:
        """Returns the details of one request and all its rows. The id may be a unique prefix."""
        return await query_response(
            self._store,
            partial(_one_request, request_id=request.path_params["request_id"], key_name=self._view.key_name),
        )

    async def usage(self, request: Request) -> Response:
        """Returns requests and tokens of the last `days` (default 7) by day, node and model, by tag, key and user."""
        days = number(request.query_params.get("days"), "days", 7) or 7
        return await query_response(self._store, partial(usage_report, since=time.time() - days * 86400))

    async def latencies(self, _: Request) -> Response:
        """Returns latency percentiles per node and model."""
        return await query_response(
            self._store, lambda connection: {"latencies": queries.latency_percentiles(connection)}
        )


class LoopState(msgspec.Struct, frozen=True):
    """Values that the event loop knew at the time of the request."""

    at: float
    running: int
    waiting: int
    tokens_per_s: float
    ttft_p50_ms: float | None
    today: float
    key_name: KeyName


def _overview(connection: sqlite3.Connection, overview: Overview, known: LoopState, address: str) -> Overview:
    requests, failures = today_totals.requests_since(connection, known.today)
    rows = queries.ended_traces(connection, LATEST_SHOWN)
    numbers = OverviewNumbers(known.running, known.waiting, known.tokens_per_s, known.ttft_p50_ms, requests, failures)
    return msgspec.structs.replace(
        overview,
        numbers=numbers,
        latest=tuple(finished_request(row, known.key_name) for row in rows),
        first_run=setup_steps(overview.nodes, bool(rows), address),
        uncounted=uncounted_since(connection, known.today),
    )


def _traces(connection: sqlite3.Connection, limit: int, wanted: queries.TraceFilter) -> Traces:
    rows = queries.recent_traces(connection, limit, wanted)
    last = rows[-1]["id"] if len(rows) == limit else None
    return Traces(tuple(rows), last if isinstance(last, int) else None)


def _one_request(connection: sqlite3.Connection, request_id: str, key_name: KeyName) -> object:
    rows: Sequence[queries.Row] = queries.one_request(connection, request_id)
    if not rows:
        raise UnknownModel(f"no request '{request_id}' is stored", code="not_found")
    return request_details(rows, key_name)


def usage_report(connection: sqlite3.Connection, since: float) -> object:
    """The usage since a unix time, in the fields of `UsageReport`."""
    return {
        "by_day": usage_queries.usage_by_day(connection, since),
        "by_tag": usage_queries.usage_by_tag(connection, since),
        "by_key": usage_queries.usage_by_key(connection, since),
        "by_user": usage_queries.usage_by_user(connection, since),
        "totals": usage_queries.totals(connection, since),
        "uncounted": uncounted_since(connection, since),
    }


def midnight(unix_now: float) -> float:
    """The first second of today in the coordinator's time zone."""
    today = time.localtime(unix_now)
    return time.mktime((today.tm_year, today.tm_mon, today.tm_mday, 0, 0, 0, 0, 0, -1))


def number(text: str | None, name: str, default: int | None) -> int | None:
    """A number of a query string. Raises `BadRequest`."""
    if text is None or text == "":
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise BadRequest(f"{name} must be a number, not {text[:40]!r}") from error
    if not abs(value) <= NUMBER_MAX:
        raise BadRequest(f"{name} must be a number from -{NUMBER_MAX} to {NUMBER_MAX}")
    return int(value)
