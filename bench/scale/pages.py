"""Lists every page and check that queries the trace database, for measurements and tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from types import MappingProxyType

from bench.scale.history import KEYS, MODELS, MODELS_PER_NODE, NODES
from herd.coordinator.api import charts, overview, recommendations
from herd.coordinator.storage import (
    audit_log,
    chart_queries,
    health_queries,
    learned_state,
    queries,
    setting_changes,
    today_totals,
    uptime_queries,
    usage_queries,
)
from herd.coordinator.storage.model_tests import benchmark_runs
from herd.coordinator.storage.queries import TraceFilter
from herd.core.state.fleet import ModelName, NodeId

Page = Callable[[sqlite3.Connection], object]

NOW = 1_795_448_000.0
"""The unix time of every page."""
DAY_S = 86_400.0
NODE = "node-03"
MODEL = f"model-{3 * 5 % MODELS}:8b"
WINDOWS = tuple(
    (NodeId(f"node-{node:02}"), ModelName(f"model-{(node * 5 + slot) % MODELS}:8b"), 8192)
    for node in range(NODES)
    for slot in range(MODELS_PER_NODE)
)
FILTERS = MappingProxyType(
    {
        "all": TraceFilter(),
        "a node": TraceFilter(node_id=NODE),
        "an unknown node": TraceFilter(node_id="nowhere"),
        "an unknown model": TraceFilter(model="none"),
        "a node and a model": TraceFilter(node_id=NODE, model=MODEL),
        "a rare status": TraceFilter(status="rejected"),
        "an unknown status": TraceFilter(status="coordinator_lost"),
        "a tag": TraceFilter(tag="app-7"),
        "an unknown tag": TraceFilter(tag="nothing"),
        "an earlier page": TraceFilter(before_id=100),
        "a day": TraceFilter(since=NOW - 20 * DAY_S, until=NOW - 19 * DAY_S),
    }
)


def _chart(build: Callable[..., object], name: str, *more: object) -> Page:
    return lambda connection: build(connection, chart_queries.range_of(name, NOW), *more)


def _pages() -> Iterator[tuple[str, Page]]:
    yield (
        "overview",
        lambda connection: (
            today_totals.requests_since(connection, overview.midnight(NOW)),
            queries.ended_traces(connection, overview.LATEST_SHOWN),
        ),
    )
    for days in (1, 7, 30):
        yield f"usage?days={days}", partial(overview.usage_report, since=NOW - days * DAY_S)
        yield f"apps/daily?days={days}", partial(usage_queries.usage_by_tag_and_day, since=NOW - days * DAY_S)
    for name in chart_queries.RANGES:
        yield f"apps?range={name}", _chart(charts.apps_page, name, str)
        yield f"models?range={name}", _chart(charts.models_page, name, [])
        yield f"trends?range={name}", _chart(charts.trends_page, name, None, None)
        yield f"trends?range={name}, a node", _chart(charts.trends_page, name, NODE, None)
        yield f"trends?range={name}, a model", _chart(charts.trends_page, name, None, MODEL)
    for name, wanted in FILTERS.items():
        yield f"traces, {name}", partial(queries.recent_traces, limit=queries.TRACES_MAX, wanted=wanted)
    yield "one request", partial(queries.one_request, request_id="r00000100")
    yield "a request by the beginning of its id", partial(queries.one_request, request_id="r0000g")
    yield "latencies", queries.latency_percentiles
    yield "model management", queries.last_used
    yield "recommendations", partial(recommendations.usage_history, now=NOW)
    yield "health checks", partial(health_queries.recent_traffic, since=NOW - DAY_S, windows=WINDOWS)
    for name in uptime_queries.RANGES:
        yield f"uptime?range={name}", partial(uptime_queries.uptime_bars, name=name, now=NOW)
    yield "setting history", setting_changes.recent_changes
    yield "audit", partial(audit_log.recent_entries, limit=100)
    yield "benchmarks", benchmark_runs.recent_runs
    yield "start: latencies", partial(queries.latencies_to_restore, at=0.0)
    yield "start: estimates", partial(learned_state.load_learned, now=NOW)
    yield "start: budgets", partial(usage_queries.tokens_by_key, since=NOW - 29 * DAY_S)
    yield "start: preloads", partial(usage_queries.most_used, since=NOW - 7 * DAY_S, limit=KEYS)


PAGES = MappingProxyType(dict(_pages()))
"""What is read for each page of the dashboard, check and command, and at the start."""
