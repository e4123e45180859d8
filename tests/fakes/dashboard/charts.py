"""Serves the chart routes over a database with generated days, at a fixed time."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from builders import a_model_info, a_report, a_world
from fakes.dashboard.trace_history import DAY_S, Day, write_day
from herd.coordinator.api.charts import ChartsApi
from herd.coordinator.driver import Driver
from herd.coordinator.storage import schema
from herd.coordinator.storage.rollups import advance
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.commands import Record

NOW = 20_008 * DAY_S + 20 * 3600.0
"""Eight in the evening, UTC."""
DAYS = (Day(20_001 * DAY_S, seed=1, requests=700), Day(20_008 * DAY_S, seed=2, requests=900, hours=20.0))


@dataclass
class Charts:
    application: Starlette
    connection: sqlite3.Connection

    def sql(self, question: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(question).fetchall()


@contextmanager
def charts(days: Sequence[Day] = DAYS) -> Iterator[Charts]:
    """Two nodes are online, with different digests of one model; a third node only has old traces."""
    with tempfile.TemporaryDirectory(prefix="herd-charts-") as folder:
        store = TraceStore(
            StoreSettings(retention_days=1e5, minutes_days=1e5, hours_days=1e5), Path(folder), wall=lambda: NOW
        )
        store.open()
        connection = sqlite3.connect(store.path, isolation_level=None)
        for step in schema.steps_needed(connection):
            schema.apply(connection, step)
        for day in days:
            write_day(connection, day)
        while advance.advance(connection, NOW):
            pass
        loop = asyncio.new_event_loop()
        world = a_world()
        world.receives(
            a_report(
                "studio", [a_model_info("qwen3:8b", loaded=True, context_tokens=8192, digest="a"), a_model_info("idle")]
            ),
            a_report("gaming-pc", [a_model_info("qwen3:8b", digest="b")]),
        )
        driver = Driver(world.dispatcher, _nothing, loop)
        yield Charts(Starlette(routes=ChartsApi(driver, store, lambda: NOW).routes), connection)
        connection.close()
        store.close()
        loop.close()


def _nothing(_: Record) -> None:
    """No request ends in these tests."""
