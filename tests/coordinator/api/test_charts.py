"""The tabs that look back, over a day of made-up history: every number agrees with plain SQL over the traces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fakes.asgi_client import send_request
from fakes.charts import NOW, Charts, charts
from herd.coordinator.storage.chart_queries import RANGES
from herd.dashboard.tabs.apps import Apps, AppsDaily
from herd.dashboard.tabs.models import ContextUsage, Models
from herd.dashboard.tabs.trends import Series, Trends

COUNTS = "status <> 'retried' AND kind <> 'info'"


@pytest.fixture(scope="module")
def day() -> Iterator[Charts]:
    with charts() as made:
        yield made


def get(day: Charts, path: str) -> Any:
    status, body = send_request(day.application, f"/dashboard/api/{path}")
    assert status == 200, body
    return msgspec.json.decode(body)


def within(day: Charts, sql: str, told: Trends | Models | Apps) -> list[tuple[Any, ...]]:
    return day.sql(f"{sql} AND timestamp >= {told.from_at} AND timestamp < {told.to_at}")


def line(told: Trends, name: str) -> Series:
    return next(one for one in told.series if one.name == name)


@pytest.mark.parametrize("name", list(RANGES))
def test_each_range_has_few_bins_of_one_length_and_its_totals_are_those_of_the_traces(day: Charts, name: str) -> None:
    told = msgspec.convert(get(day, f"trends?range={name}"), Trends)
    assert len(told.at) <= 1500 and all(len(one.values) == len(told.at) for one in told.series)
    assert told.at[0] == told.from_at and told.at[-1] + told.step_s == told.to_at >= NOW
    [(requests, failed, prompt, written)] = within(
        day,
        f"SELECT SUM({COUNTS}), SUM(status LIKE 'failed%'), SUM(prompt_tokens), SUM(completion_tokens) FROM request_traces WHERE kind <> 'info'",
        told,
    )
    totals = [line(told, one).total for one in ("requests", "failed", "prompt_tokens", "completion_tokens")]
    assert totals == [requests or 0, failed or 0, prompt or 0, written or 0]
    assert [sum(v or 0 for v in line(told, one).values) for one in ("requests", "failed")] == totals[:2]


def test_each_bin_holds_what_ended_in_it(day: Charts) -> None:
    told = msgspec.convert(get(day, "trends?range=24h"), Trends)
    plain = day.sql(
        f"SELECT CAST(timestamp / 300 AS INTEGER) * 300.0, SUM({COUNTS}) FROM request_traces WHERE timestamp >= {told.from_at} AND timestamp < {told.to_at} GROUP BY 1"
    )
    assert {at: value for at, value in zip(told.at, line(told, "requests").values, strict=True) if value} == {
        at: n for at, n in plain if n
    }


@pytest.mark.parametrize(
    ("name", "column", "share"),
    [("ttft_p50_ms", "time_to_first_token_ms", 0.5), ("latency_p95_ms", "latency_ms", 0.95)],
)
def test_percentiles_lie_within_five_percent_of_the_true_ones(
    day: Charts, name: str, column: str, share: float
) -> None:
    told = msgspec.convert(get(day, "trends?range=7d"), Trends)
    checked = 0
    for at, value in zip(told.at, line(told, name).values, strict=True):
        seen = sorted(
            row[0]
            for row in day.sql(
                f"SELECT {column} FROM request_traces WHERE status = 'completed' AND kind <> 'info' AND {column} IS NOT NULL "
                f"AND timestamp >= {at} AND timestamp < {at + told.step_s}"
            )
        )
        if value is None:
            assert not seen
            continue
        true = seen[min(len(seen) - 1, int(len(seen) * share))]
        assert value == pytest.approx(true, rel=0.05, abs=0.5), (name, at)
        checked += 1
    assert checked >= 20


def test_the_same_time_a_week_before_is_the_ghost(day: Charts) -> None:
    told = msgspec.convert(get(day, "trends?range=24h"), Trends)
    [(requests,)] = day.sql(
        f"SELECT SUM({COUNTS}) FROM request_traces WHERE timestamp >= {told.from_at - 604800} AND timestamp < {told.to_at - 604800}"
    )
    assert requests and sum(value or 0 for value in line(told, "requests").ghost) == requests


def test_a_node_or_a_model_can_be_looked_at_alone(day: Charts) -> None:
    for name, value in (("node_id", "studio"), ("model", "qwen3:8b")):
        told = msgspec.convert(get(day, f"trends?range=7d&{name}={value}"), Trends)
        [(requests,)] = within(day, f"SELECT SUM({COUNTS}) FROM request_traces WHERE {name} = '{value}'", told)
        assert line(told, "requests").total == requests


def test_what_happened_is_flagged_and_the_heat_map_has_every_hour_that_was_watched(day: Charts) -> None:
    told = msgspec.convert(get(day, "trends?range=7d"), Trends)
    assert {flag.kind for flag in told.flags} == {"node_joined", "node_left"} and told.flags[0].at < told.flags[-1].at
    [(busy_s,)] = day.sql(
        "SELECT SUM(COALESCE(attempt_ms, 0)) / 1000.0 FROM request_traces WHERE kind <> 'info' AND node_id <> ''"
    )
    assert sum(value or 0.0 for value in told.heat.demand) * 3600 == pytest.approx(busy_s, rel=0.6)
    assert (
        len(told.heat.demand) == len(told.heat.capacity) == 168
        and max(value or 0 for value in told.heat.capacity) == 7.0
    )
    assert min(value for value in told.heat.capacity if value is not None) == 6.0


def test_models_are_counted_by_node_and_their_speed_is_that_of_the_traces(day: Charts) -> None:
    told = msgspec.convert(get(day, "models?range=7d"), Models)
    assert [one.name for one in told.models][-1] == "idle:latest" and told.models[0].requests >= told.models[1].requests
    for model in told.models:
        for node in model.nodes:
            [(requests, completed, cold, lost)] = within(
                day,
                f"SELECT SUM({COUNTS}), SUM(status = 'completed'), SUM(load_ms >= 500), SUM(CASE WHEN load_ms >= 500 THEN load_ms ELSE 0 END) / 1000.0 "
                f"FROM request_traces WHERE kind <> 'info' AND model = '{model.name}' AND node_id = '{node.node_id}'",
                told,
            )
            assert (node.requests, node.completed, node.cold_loads) == (requests or 0, completed or 0, cold or 0)
            assert node.load_lost_s == pytest.approx(lost or 0.0, abs=0.01)
            [(speed,)] = within(
                day,
                "SELECT SUM(CASE WHEN decode_ms > 0 THEN completion_tokens END) * 1000.0 / SUM(CASE WHEN completion_tokens > 0 THEN decode_ms END) "
                f"FROM request_traces WHERE kind <> 'info' AND model = '{model.name}' AND node_id = '{node.node_id}'",
                told,
            )
            assert node.tokens_per_s == (pytest.approx(speed, abs=0.01) if speed else None)


def test_models_tell_where_they_are_drift_and_fallbacks(day: Charts) -> None:
    whole = msgspec.convert(get(day, "models?range=7d"), Models)
    told = {one.name: one for one in whole.models}
    qwen = told["qwen3:8b"]
    assert {node.node_id: node.state for node in qwen.nodes} == {
        "studio": "hot",
        "gaming-pc": "cold",
        "old-laptop": "gone",
    }
    assert qwen.has_drift and len(qwen.digests) == 2 and not told["idle:latest"].has_drift
    plain = "SELECT COUNT(*) FROM request_traces WHERE fallback_used = 1 AND status <> 'retried' AND kind <> 'info' AND model = 'qwen3:8b'"
    [(stood_in,)] = within(day, plain, whole)
    assert qwen.stood_in_for == {"qwen3:32b": stood_in} and stood_in
    assert qwen.context.allocated_tokens == 8192 and sum(qwen.context.used.counts) == qwen.completed
    assert (
        qwen.last_used_at
        == day.sql("SELECT MAX(timestamp) FROM request_traces WHERE model = 'qwen3:8b' AND kind <> 'info'")[0][0]
    )
    usage = msgspec.convert(get(day, "context-usage?range=7d"), ContextUsage)
    assert next(one for one in usage.models if one.model == "qwen3:8b").context == qwen.context


def test_apps_add_up_to_the_whole_and_are_called_by_what_they_said(day: Charts) -> None:
    told = msgspec.convert(get(day, "apps?range=7d"), Apps)
    [(requests, prompt)] = within(
        day, f"SELECT SUM({COUNTS}), SUM(prompt_tokens) FROM request_traces WHERE kind <> 'info'", told
    )
    assert sum(app.requests for app in told.apps) == requests and sum(app.prompt_tokens for app in told.apps) == prompt
    assert {app.app: app.kind for app in told.apps} == {
        "aider": "tag",
        "user:ann": "user",
        "Unknown app (192.168.1.20)": "unlabelled",
        "notes": "tag",
        "key k-batch": "key",
    }
    assert sum(app.share for app in told.apps) == pytest.approx(1.0, abs=0.001)
    aider = next(app for app in told.apps if app.app == "aider")
    assert aider.dialects == {"openai": aider.requests} and sum(aider.models.values()) == aider.requests
    assert told.data == told.by_tag and {row["tag"] for row in told.by_tag} == {"aider", "user:ann", "chat", "notes"}


@pytest.mark.parametrize("path", ["tags", "apps/tags"])
def test_the_seeds_names_are_served(day: Charts, path: str) -> None:
    assert get(day, f"{path}?days=7") == get(day, "apps?range=7d")


def test_days_have_a_column_each(day: Charts) -> None:
    told = msgspec.convert(get(day, "apps/daily?days=10"), AppsDaily)
    assert get(day, "tags/daily?days=10") == get(day, "apps/daily?days=10")
    for app in told.apps:
        assert len(app.requests) == len(told.days)
        [(count,)] = day.sql(
            f"SELECT COUNT(*) FROM request_traces, json_each(tags) t WHERE t.value = '{app.app}' AND status <> 'retried' AND timestamp >= {NOW - 864000}"
        )
        assert sum(app.requests) == count


@pytest.mark.parametrize(
    "path", ["trends?range=2h", "models?range=x", "apps?days=0", "apps/daily?days=-1", "tags?days=abc"]
)
def test_what_is_no_range_is_refused_in_words(day: Charts, path: str) -> None:
    status, body = send_request(day.application, f"/dashboard/api/{path}")
    assert status == 400 and b"must be" in body


def test_an_empty_database_has_empty_charts() -> None:
    with charts(days=()) as empty:
        told = msgspec.convert(get(empty, "trends?range=30d"), Trends)
        assert told.summary == "No requests in this time range." and line(told, "ttft_p50_ms").values == (None,) * len(
            told.at
        )
        assert get(empty, "apps")["apps"] == [] and get(empty, "apps/daily")["days"] == []
