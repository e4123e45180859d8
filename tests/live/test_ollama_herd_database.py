"""A trace database that the real ollama-herd 0.11.4 has written for a month is migrated without loss."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from fakes.real_ollama_herd import run_python, writing_a_month

ROWS = 29 * 24 * 4
"""Four requests an hour for 29 days: the newest ones are of this hour."""
QUERY_LAST = (
    "SELECT request_id, model, node_id, score, scores_breakdown FROM request_traces ORDER BY timestamp DESC LIMIT 1"
)
QUERY_SUMS = """SELECT node_id, model, COUNT(*), AVG(latency_ms),
       AVG(COALESCE(completion_tokens, 0) * 1000.0 / NULLIF(latency_ms, 0))
FROM request_traces WHERE status = 'completed' GROUP BY node_id, model"""
PAGES = (
    *("traces?limit=200", "overview", "trends?range=30d", "models?range=30d", "usage?range=30d", "apps?range=30d"),
    *("apps/daily", "tags", "health", "recommendations", "benchmarks", "context-usage"),
)


@pytest.fixture(scope="module")
def written(ollama_herd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("month")
    run_python(ollama_herd, folder, writing_a_month(folder, ROWS))
    return folder


@pytest.fixture(scope="module")
def before(written: Path) -> dict[str, list[Any]]:
    """What the published queries and the columns contain before the migration."""
    return read_all(written / "latency.db")


@pytest.fixture(scope="module")
def fleet(written: Path, before: dict[str, list[Any]]) -> Iterator[Fleet]:
    assert len(before["traces"]) == ROWS
    with FakeOllama(["m"]) as node, running_fleet({"alpha": node}, data_dir=written) as running:
        yield running


def read_all(path: Path) -> dict[str, list[Any]]:
    columns = (
        "request_id, model, original_model, node_id, score, scores_breakdown, status, latency_ms, "
        "time_to_first_token_ms, prompt_tokens, completion_tokens, retry_count, fallback_used, excluded_nodes, "
        "client_ip, original_format, error_message, timestamp, tags, finish_reason, estimated_tokens"
    )
    with closing(sqlite3.connect(path)) as connection:
        return {
            "traces": connection.execute(f"SELECT {columns} FROM request_traces ORDER BY timestamp").fetchall(),
            "latencies": connection.execute(
                "SELECT node_id, model_name, latency_ms, tokens_generated, prompt_tokens, completion_tokens, timestamp "
                "FROM latency_observations ORDER BY timestamp"
            ).fetchall(),
            "briefings": connection.execute("SELECT briefing FROM fleet_briefings").fetchall(),
            "last": connection.execute(QUERY_LAST).fetchall(),
            "sums": connection.execute(QUERY_SUMS).fetchall(),
        }


def test_every_row_of_the_month_is_still_there(fleet: Fleet, written: Path, before: dict[str, list[Any]]) -> None:
    fleet.coordinator.store.flush()
    assert read_all(written / "latency.db") == before


def test_the_old_database_was_backed_up(fleet: Fleet, written: Path, before: dict[str, list[Any]]) -> None:
    copies = list(written.glob("latency.db.v0-*.bak"))
    assert fleet.url and len(copies) == 1
    assert read_all(copies[0]) == before


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_the_dashboard_shows_the_old_rows(fleet: Fleet, page: str) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("GET", f"/dashboard/api/{page}")
        response = connection.getresponse()
        assert response.status == 200, page
        answer = json.loads(response.read())
    if page.startswith("traces"):
        newest = answer["traces"][0]
        assert newest["request_id"] == f"req-{ROWS - 1}" and newest["tags"] == ["app:notes", "user:ann"]
    if page == "benchmarks":
        assert [run["run_id"] for run in answer["runs"]] == ["bench-1"]


def test_new_requests_follow_the_old_rows(fleet: Fleet, written: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    fleet.ask("POST", "/api/chat", json.dumps(body).encode())
    fleet.settle()
    fleet.coordinator.store.flush()
    newest = fleet.get("/dashboard/api/traces?limit=1")["traces"][0]
    assert (newest["model"], newest["node_id"], newest["status"]) == ("m:latest", "alpha", "completed")
    with closing(sqlite3.connect(written / "latency.db")) as connection:
        connection.execute("DELETE FROM request_traces WHERE request_id = ?", (newest["request_id"],))
        connection.execute("DELETE FROM latency_observations WHERE timestamp > ?", (newest["timestamp"] - 60,))
        connection.commit()
