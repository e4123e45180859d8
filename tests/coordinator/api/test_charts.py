"""Tests that every number of the charts equals plain SQL over a day of generated traces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fakes.asgi_client import send_request
from fakes.dashboard.charts import NOW, Charts, charts
from herd.coordinator.storage.chart_queries import RANGES
from herd.dashboard.pages.apps import Apps, AppsDaily
from herd.dashboard.pages.models import ContextUsage, Models
from herd.dashboard.pages.trends import Series, Trends

COUNTS = "status <> 'retried' AND kind <> 'info'"


@pytest.fixture(scope="module")
def day() -> Iterator[Charts]:
    with charts() as made:
        yield made


def get(day: Charts, path: str) -> Any:
    status, body = send_request(day.application, f"/dashboard/api/{path}")
    assert status == 200, body
    return msgspec.json.decode(body)


def within(day: Charts, sql: str, result: Trends | Models | Apps) -> list[tuple[Any, ...]]:
    return day.sql(f"{sql} AND timestamp >= {result.from_at} AND timestamp < {result.to_at}")


def line(result: Trends, name: str) -> Series:
    return next(one for one in result.series if one.name == name)


@pytest.mark.parametrize("name", list(RANGES))
def test_each_range_has_equal_bins_and_its_totals_equal_the_traces(day: Charts, name: str) -> None:
    result = msgspec.convert(get(day, f"trends?range={name}"), Trends)
    assert len(result.at) <= 1500 and all(len(one.values) == len(result.at) for one in result.series)
    assert result.at[0] == result.from_at and result.at[-1] + result.step_s == result.to_at >= NOW
    [(requests, failed, prompt, completion)] = within(
        day,
        f"SELECT SUM({COUNTS}), SUM(status LIKE 'failed%'), SUM(prompt_tokens), SUM(completion_tokens) "
        "FROM request_traces WHERE kind <> 'info'",
        result,
    )
    totals = [line(result, one).total for one in ("requests", "failed", "prompt_tokens", "completion_tokens")]
    assert totals == [requests or 0, failed or 0, prompt or 0, completion or 0]
    assert [sum(v or 0 for v in line(result, one).values) for one in ("requests", "failed")] == totals[:2]


def test_each_bin_has_the_requests_that_ended_in_it(day: Charts) -> None:
    result = msgspec.convert(get(day, "trends?range=24h"), Trends)
    plain = day.sql(
        f"SELECT CAST(timestamp / 300 AS INTEGER) * 300.0, SUM({COUNTS}) FROM request_traces "
        f"WHERE timestamp >= {result.from_at} AND timestamp < {result.to_at} GROUP BY 1"
    )
    assert {at: value for at, value in zip(result.at, line(result, "requests").values, strict=True) if value} == {
        at: n for at, n in plain if n
    }


@pytest.mark.parametrize(
    ("name", "column", "share"),
    [("ttft_p50_ms", "time_to_first_token_ms", 0.5), ("latency_p95_ms", "latency_ms", 0.95)],
)
def test_percentiles_are_within_five_percent_of_the_exact_ones(
    day: Charts, name: str, column: str, share: float
) -> None:
    result = msgspec.convert(get(day, "trends?range=7d"), Trends)
    checked = 0
    for at, value in zip(result.at, line(result, name).values, strict=True):
        seen = sorted(
            row[0]
            for row in day.sql(
                f"SELECT {column} FROM request_traces "
                f"WHERE status = 'completed' AND kind <> 'info' AND {column} IS NOT NULL "
                f"AND timestamp >= {at} AND timestamp < {at + result.step_s}"
            )
        )
        if value is None:
            assert not seen
            continue
        true = seen[min(len(seen) - 1, int(len(seen) * share))]
        assert value == pytest.approx(true, rel=0.05, abs=0.5), (name, at)
        checked += 1
    assert checked >= 20


def test_the_comparison_line_is_the_same_time_one_week_earlier(day: Charts) -> None:
    result = msgspec.convert(get(day, "trends?range=24h"), Trends)
    [(requests,)] = day.sql(
        f"SELECT SUM({COUNTS}) FROM request_traces "
        f"WHERE timestamp >= {result.from_at - 604800} AND timestamp < {result.to_at - 604800}"
    )
    assert requests and sum(value or 0 for value in line(result, "requests").ghost) == requests


def test_trends_can_be_filtered_by_node_or_model(day: Charts) -> None:
    for name, value in (("node_id", "studio"), ("model", "qwen3:8b")):
        result = msgspec.convert(get(day, f"trends?range=7d&{name}={value}"), Trends)
        [(requests,)] = within(day, f"SELECT SUM({COUNTS}) FROM request_traces WHERE {name} = '{value}'", result)
        assert line(result, "requests").total == requests


def test_events_are_marked_and_the_heat_map_has_every_observed_hour(day: Charts) -> None:
    result = msgspec.convert(get(day, "trends?range=7d"), Trends)
    assert {flag.kind for flag in result.flags} == {"node_joined", "node_left"} and result.flags[0].at < result.flags[
        -1
    ].at
    [(busy_s,)] = day.sql(
        "SELECT SUM(COALESCE(attempt_ms, 0)) / 1000.0 FROM request_traces WHERE kind <> 'info' AND node_id <> ''"
    )
    assert sum(value or 0.0 for value in result.heat.demand) * 3600 == pytest.approx(busy_s, rel=0.6)
    assert (
        len(result.heat.demand) == len(result.heat.capacity) == 168
        and max(value or 0 for value in result.heat.capacity) == 7.0
    )
    assert min(value for value in result.heat.capacity if value is not None) == 6.0


def test_models_are_counted_by_node_and_their_speed_equals_the_traces(day: Charts) -> None:
    result = msgspec.convert(get(day, "models?range=7d"), Models)
    assert [one.name for one in result.models][-1] == "idle:latest" and result.models[0].requests >= result.models[
        1
    ].requests
    for model in result.models:
        for node in model.nodes:
            [(requests, completed, cold, lost)] = within(
                day,
                f"SELECT SUM({COUNTS}), SUM(status = 'completed'), SUM(load_ms >= 500), "
                "SUM(CASE WHEN load_ms >= 500 THEN load_ms ELSE 0 END) / 1000.0 "
                f"FROM request_traces WHERE kind <> 'info' AND model = '{model.name}' AND node_id = '{node.node_id}'",
                result,
            )
            assert (node.requests, node.completed, node.cold_loads) == (requests or 0, completed or 0, cold or 0)
            assert node.load_lost_s == pytest.approx(lost or 0.0, abs=0.01)
            [(speed,)] = within(
                day,
                "SELECT SUM(CASE WHEN decode_ms > 0 THEN completion_tokens END) * 1000.0 "
                "/ SUM(CASE WHEN completion_tokens > 0 THEN decode_ms END) "
                f"FROM request_traces WHERE kind <> 'info' AND model = '{model.name}' AND node_id = '{node.node_id}'",
                result,
            )
            assert node.tokens_per_s == (pytest.approx(speed, abs=0.01) if speed else None)


def test_models_have_their_nodes_drift_and_fallbacks(day: Charts) -> None:
    whole = msgspec.convert(get(day, "models?range=7d"), Models)
    result = {one.name: one for one in whole.models}
    qwen = result["qwen3:8b"]
    assert {node.node_id: node.state for node in qwen.nodes} == {
        "studio": "hot",
        "gaming-pc": "cold",
        "old-laptop": "gone",
    }
    assert qwen.has_drift and len(qwen.digests) == 2 and not result["idle:latest"].has_drift
    plain = (
        "SELECT COUNT(*) FROM request_traces "
        "WHERE fallback_used = 1 AND status <> 'retried' AND kind <> 'info' AND model = 'qwen3:8b'"
    )
    [(fallbacks,)] = within(day, plain, whole)
    assert qwen.stood_in_for == {"qwen3:32b": fallbacks} and fallbacks
    assert qwen.context.allocated_tokens == 8192 and sum(qwen.context.used.counts) == qwen.completed
    assert (
        qwen.last_used_at
        == day.sql("SELECT MAX(timestamp) FROM request_traces WHERE model = 'qwen3:8b' AND kind <> 'info'")[0][0]
    )
    usage = msgspec.convert(get(day, "context-usage?range=7d"), ContextUsage)
    assert next(one for one in usage.models if one.model == "qwen3:8b").context == qwen.context


def test_apps_add_up_to_the_total_and_are_named_by_tag_key_or_address(day: Charts) -> None:
    result = msgspec.convert(get(day, "apps?range=7d"), Apps)
    [(requests, prompt)] = within(
        day, f"SELECT SUM({COUNTS}), SUM(prompt_tokens) FROM request_traces WHERE kind <> 'info'", result
    )
    assert (
        sum(app.requests for app in result.apps) == requests and sum(app.prompt_tokens for app in result.apps) == prompt
    )
    assert {app.app: app.kind for app in result.apps} == {
        "aider": "tag",
        "user:ann": "user",
        "Unknown app (192.168.1.20)": "unlabelled",
        "notes": "tag",
        "key k-batch": "key",
    }
    assert sum(app.share for app in result.apps) == pytest.approx(1.0, abs=0.001)
    aider = next(app for app in result.apps if app.app == "aider")
    assert aider.dialects == {"openai": aider.requests} and sum(aider.models.values()) == aider.requests
    assert result.data == result.by_tag and {row["tag"] for row in result.by_tag} == {
        "aider",
        "user:ann",
        "chat",
        "notes",
    }


@pytest.mark.parametrize("path", ["tags", "apps/tags"])
def test_the_paths_of_ollama_herd_are_served(day: Charts, path: str) -> None:
    assert get(day, f"{path}?days=7") == get(day, "apps?range=7d")


def test_each_day_has_a_column(day: Charts) -> None:
    result = msgspec.convert(get(day, "apps/daily?days=10"), AppsDaily)
    assert get(day, "tags/daily?days=10") == get(day, "apps/daily?days=10")
    for app in result.apps:
        assert len(app.requests) == len(result.days)
        [(count,)] = day.sql(
            f"SELECT COUNT(*) FROM request_traces, json_each(tags) t "
            f"WHERE t.value = '{app.app}' AND status <> 'retried' AND timestamp >= {NOW - 864000}"
        )
        assert sum(app.requests) == count


@pytest.mark.parametrize(
    "path", ["trends?range=2h", "models?range=x", "apps?days=0", "apps/daily?days=-1", "tags?days=abc"]
)
def test_an_invalid_range_is_refused_with_a_message(day: Charts, path: str) -> None:
    status, body = send_request(day.application, f"/dashboard/api/{path}")
    assert status == 400 and b"must be" in body


def test_an_empty_database_has_empty_charts() -> None:
    with charts(days=()) as empty:
        result = msgspec.convert(get(empty, "trends?range=30d"), Trends)
        assert result.summary == "No requests in this time range." and line(result, "ttft_p50_ms").values == (
            None,
        ) * len(result.at)
        assert get(empty, "apps")["apps"] == [] and get(empty, "apps/daily")["days"] == []
