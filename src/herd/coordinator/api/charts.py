"""Serves the dashboard's charts: trends, models, apps and context use over a range of time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_errors, query_response
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.coordinator.storage import chart_queries, usage_queries
from herd.coordinator.storage.chart_queries import ChartRange
from herd.coordinator.storage.rollups.backlog import uncounted_since
from herd.coordinator.storage.rollups.tables import APP, APP_MODEL, DAY_S, PAIR, Measure
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.fleet import Liveness
from herd.dashboard import usage
from herd.dashboard.histograms import Counts, merge_counts
from herd.dashboard.pages import apps, models, trends
from herd.dashboard.pages.models import PresentModel
from herd.dashboard.requests import KeyName
from herd.dashboard.usage import By
from herd.errors import BadRequest
from herd.trust.rights import Right

RANGE_DEFAULT = "24h"
WEEK_S = 7 * DAY_S
HEAT_DAYS = 28
DAYS_MAX = 400
DAYS_AS_RANGES = ((1, "24h"), (7, "7d"), (DAYS_MAX, "30d"))
"""The range that `days=` of older scripts selects: the shortest one that covers the days."""


class ChartsApi:
    def __init__(
        self, driver: Driver, store: TraceStore, wall: Callable[[], float] = time.time, key_name: KeyName = str
    ) -> None:
        """`wall()` is unix time; every range ends now. `key_name` is the name of an API key."""
        self._driver = driver
        self._store = store
        self._wall = wall
        self._key_name = key_name

    @property
    def routes(self) -> list[ApiRoute]:
        ranged = ("range", "days")
        return [
            ApiRoute(
                "/dashboard/api/trends",
                json_errors(self.trends),
                "GET",
                Right.READ,
                query=(*ranged, "node_id", "model"),
            ),
            ApiRoute("/dashboard/api/models", json_errors(self.models), "GET", Right.READ, query=ranged),
            ApiRoute("/dashboard/api/context-usage", json_errors(self.context_usage), "GET", Right.READ, query=ranged),
            ApiRoute("/dashboard/api/apps", json_errors(self.apps), "GET", Right.READ, query=ranged),
            ApiRoute("/dashboard/api/tags", json_errors(self.apps), "GET", Right.READ, query=ranged),
            ApiRoute("/dashboard/api/apps/tags", json_errors(self.apps), "GET", Right.READ, query=ranged),
            ApiRoute("/dashboard/api/apps/daily", json_errors(self.daily), "GET", Right.READ, query=("days",)),
            ApiRoute("/dashboard/api/tags/daily", json_errors(self.daily), "GET", Right.READ, query=("days",)),
            ApiRoute(
                "/dashboard/api/usage/lines", json_errors(self.usage_lines), "GET", Right.READ, query=("by", *ranged)
            ),
        ]

    async def trends(self, request: Request) -> Response:
        """Returns requests, tokens, latencies, errors and cold loads over time, with the previous week and events."""
        query = request.query_params
        return await query_response(
            self._store,
            partial(trends_page, wanted=self._range(request), node_id=query.get("node_id"), model=query.get("model")),
        )

    async def models(self, request: Request) -> Response:
        """Returns speed, time to first token, loads, context use, digest and last use of each model by node."""
        return await query_response(
            self._store, partial(models_page, wanted=self._range(request), present=self._present())
        )

    async def context_usage(self, request: Request) -> Response:
        """Returns how much of its context window each model used."""
        return await query_response(
            self._store, partial(_context_usage, wanted=self._range(request), present=self._present())
        )

    async def apps(self, request: Request) -> Response:
        """Returns requests, tokens and latencies of each app."""
        return await query_response(
            self._store, partial(apps_page, wanted=self._range(request), key_name=self._key_name)
        )

    async def daily(self, request: Request) -> Response:
        """Returns requests and tokens of each tag per day, for the last `days` (default 7)."""
        return await query_response(self._store, partial(_daily, since=self._wall() - _days(request, 7) * DAY_S))

    async def usage_lines(self, request: Request) -> Response:
        """Returns who used the fleet how much: requests, tokens and seconds by user, app, model, key or day."""
        text = request.query_params.get("by") or By.USER.value
        if text not in {by.value for by in By}:
            raise BadRequest(f"by must be one of {', '.join(by.value for by in By)}, not {text[:40]!r}")
        wanted = partial(usage_page, wanted=self._range(request), by=By(text), key_name=self._key_name)
        return await query_response(self._store, wanted)

    def _range(self, request: Request) -> ChartRange:
        name = request.query_params.get("range")
        if not name and request.query_params.get("days"):
            name = next(one for most, one in DAYS_AS_RANGES if _days(request, 1) <= most)
        return chart_queries.range_of(name or RANGE_DEFAULT, self._wall())

    def _present(self) -> list[PresentModel]:
        """Every model on every node that is online."""
        return [
            PresentModel(
                model=name,
                node_id=node.id,
                state="hot" if model_info.loaded else "warm" if name in node.unloaded_at else "cold",
                digest=model_info.digest,
                parameters=model_info.parameters,
                quantization=model_info.quantization,
                size_bytes=model_info.size_bytes,
                context_tokens=model_info.loaded.window_tokens if model_info.loaded else None,
            )
            for node in self._driver.fleet
            if node.liveness is not Liveness.OFFLINE
            for name, model_info in node.report.models.items()
        ]


def _days(request: Request, default: int) -> int:
    text = request.query_params.get("days") or str(default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= DAYS_MAX:
        raise BadRequest(f"days must be a whole number from 1 to {DAYS_MAX}, not {text[:40]!r}")
    return int(text)


def _trend_history(
    connection: sqlite3.Connection, wanted: ChartRange, node_id: str | None, model: str | None
) -> trends.TrendHistory:
    sums = chart_queries.series(connection, wanted, node_id, model)
    bins = chart_queries.series_bins(connection, wanted, node_id, model) if sums else {}
    return trends.TrendHistory(sums, bins, chart_queries.edges(connection))


def trends_page(
    connection: sqlite3.Connection, wanted: ChartRange, node_id: str | None, model: str | None
) -> trends.Trends:
    """The trends of a range, of one node, one model, or both, if they are given."""
    now, before = (_trend_history(connection, one, node_id, model) for one in (wanted, wanted.earlier(WEEK_S)))
    events = tuple(trends.ChartEvent(*event) for event in chart_queries.events(connection, wanted))
    busy, slots = chart_queries.by_hour(connection, wanted.to_at - HEAT_DAYS * DAY_S, wanted.to_at)
    ttft = merge_counts(counts for (_, measure), counts in now.bins.items() if measure == Measure.TTFT)
    starts = wanted.starts
    return trends.Trends(
        range=wanted.name,
        from_at=wanted.from_at,
        to_at=wanted.to_at,
        step_s=wanted.step_s,
        at=starts,
        series=trends.series(now, before, len(starts)),
        flags=events,
        heat=trends.week_load(busy, slots, hour_of_week),
        summary=trends.summary(now, ttft),
        uncounted=uncounted_since(connection, wanted.from_at),
    )


def _model_history(connection: sqlite3.Connection, wanted: ChartRange) -> models.ModelHistory:
    sums: dict[tuple[str, ...], chart_queries.Sums] = {
        (model, node_id): one for (node_id, model), one in chart_queries.grouped(connection, wanted, PAIR).items()
    }
    bins: dict[tuple[tuple[str, ...], Measure], Counts] = {
        ((model, node_id), measure): counts
        for ((node_id, model), measure), counts in chart_queries.grouped_bins(connection, wanted, PAIR).items()
    }
    context = {
        model: merge_counts(
            counts for (key, measure), counts in bins.items() if measure is Measure.CONTEXT and key[0] == model
        )
        for model in {key[0] for key in sums}
    }
    has_fallbacks = any(one["fallbacks"] for one in sums.values())
    return models.ModelHistory(
        sums,
        {key: counts for (key, measure), counts in bins.items() if measure is Measure.TTFT},
        context,
        chart_queries.last_used(connection),
        chart_queries.fallbacks(connection, wanted) if has_fallbacks else (),
        chart_queries.edges(connection),
    )


def models_page(connection: sqlite3.Connection, wanted: ChartRange, present: Sequence[PresentModel]) -> models.Models:
    """Every model that is present or was used in the range."""
    lines = models.lines(present, _model_history(connection, wanted))
    return models.Models(
        wanted.name,
        wanted.from_at,
        wanted.to_at,
        lines,
        models.summary(lines),
        uncounted_since(connection, wanted.from_at),
    )


def _context_usage(
    connection: sqlite3.Connection, wanted: ChartRange, present: Sequence[PresentModel]
) -> models.ContextUsage:
    lines = models.lines(present, _model_history(connection, wanted))
    return models.ContextUsage(
        wanted.name,
        wanted.from_at,
        wanted.to_at,
        tuple(models.ContextLine(line.name, line.context) for line in lines),
        uncounted_since(connection, wanted.from_at),
    )


def apps_page(connection: sqlite3.Connection, wanted: ChartRange, key_name: KeyName) -> apps.Apps:
    """Every app that was used in the range."""
    bins = {
        (key, int(measure)): counts
        for (key, measure), counts in chart_queries.grouped_bins(connection, wanted, APP).items()
    }
    history = apps.AppHistory(
        chart_queries.grouped(connection, wanted, APP),
        chart_queries.grouped(connection, wanted, APP_MODEL),
        bins,
        chart_queries.dialects(connection, wanted),
        chart_queries.edges(connection),
    )
    lines, by_tag = (
        apps.lines(history, key_name),
        tuple(usage_queries.usage_by_tag(connection, wanted.from_at, wanted.size_s)),
    )
    return apps.Apps(
        range=wanted.name,
        from_at=wanted.from_at,
        to_at=wanted.to_at,
        apps=lines,
        by_tag=by_tag,
        data=by_tag,
        summary=apps.summary(lines),
        uncounted=uncounted_since(connection, wanted.from_at),
    )


def usage_page(connection: sqlite3.Connection, wanted: ChartRange, by: By, key_name: KeyName) -> usage.UsageLines:
    """The usage in the range. That of users and keys is stored by the hour."""
    lines = usage.lines(usage.added(_used(connection, wanted, by, key_name)), by)
    return usage.UsageLines(
        by.value,
        wanted.name,
        wanted.from_at,
        wanted.to_at,
        lines,
        usage.summary(lines, by),
        uncounted_since(connection, wanted.from_at),
    )


def _used(connection: sqlite3.Connection, wanted: ChartRange, by: By, key_name: KeyName) -> Iterator[usage.Used]:
    if by is By.USER:
        for row in usage_queries.usage_by_user(connection, wanted.from_at):
            kind, name = str(row["user_kind"]), str(row["user"])
            yield usage.of_row(kind, key_name(name) if kind == "key" else name or "other users", row)
    elif by is By.KEY:
        for row in usage_queries.usage_by_key(connection, wanted.from_at):
            yield usage.of_row(by.value, key_name(str(row["key_id"])), row)
    elif by is By.APP:
        for (kind, app), sums in chart_queries.grouped(connection, wanted, APP).items():
            yield usage.Used(kind, apps.label(kind, app, key_name), sums)
    elif by is By.MODEL:
        for (_, model), sums in chart_queries.grouped(connection, wanted, PAIR).items():
            yield usage.Used(by.value, model or "(none)", sums)
    else:
        for at, sums in chart_queries.series(connection, wanted, None, None).items():
            start = wanted.starts[at]
            yield usage.Used(by.value, time.strftime("%Y-%m-%d", time.localtime(start)), {**sums, "last_at": start})


def _daily(connection: sqlite3.Connection, since: float) -> apps.AppsDaily:
    return apps.days(usage_queries.usage_by_tag_and_day(connection, since), uncounted_since(connection, since))


def hour_of_week(at: float) -> int:
    """Hours since Monday 0:00 in the coordinator's time zone."""
    local = time.localtime(at)
    return local.tm_wday * 24 + local.tm_hour
