"""Tests that no page reads a whole table: the plan of every statement, and the steps of every page on many rows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from bench.scale.history import fill
from bench.scale.pages import NOW, PAGES
from herd.coordinator.storage.database import open_for_writing
from herd.coordinator.storage.rollups import advance

ROWS = 20_000
DAY_S = 86_400.0
TABLES = ("request_traces", "latency_observations", "sums", "sum_bins", "audit", "fleet_events", "node_minutes")
STEPS_PER_ROW_MAX = 100
"""With so few rows in a month hardly two of them are in one bucket. Reading all rows took hundreds of steps for one."""


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("costs") / "latency.db"
    fill(path, ROWS, NOW, 30 * DAY_S)
    with closing(open_for_writing(path, 1.0)) as opened:
        while advance.advance(opened, NOW):
            pass
        yield opened


def statements(connection: sqlite3.Connection, page: Callable[[sqlite3.Connection], object]) -> list[str]:
    """Every statement of a page, with its values."""
    found: list[str] = []
    connection.set_trace_callback(found.append)
    try:
        page(connection)
    finally:
        connection.set_trace_callback(None)
    return [statement for statement in dict.fromkeys(found) if not statement.startswith("--")]


@pytest.mark.parametrize("name", PAGES)
def test_no_statement_scans_a_table(connection: sqlite3.Connection, name: str) -> None:
    made = statements(connection, PAGES[name])
    assert made
    for statement in made:
        plan = [str(row[3]) for row in connection.execute("EXPLAIN QUERY PLAN " + statement)]
        for step in plan:
            scanned = re.match(r"SCAN (\w+)", step)
            is_newest = (
                "ORDER BY id DESC" in statement or "idx_traces_filters" in step or "idx_traces_timestamp" in step
            )
            assert scanned is None or scanned[1] not in (*TABLES, "r") or is_newest, (statement, plan)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_takes_few_steps(connection: sqlite3.Connection, name: str) -> None:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    connection.set_progress_handler(count, 100)
    PAGES[name](connection)
    connection.set_progress_handler(None, 100)
    assert steps < STEPS_PER_ROW_MAX * ROWS
