"""Runs queries on the trace database in a thread of their own, with a connection that cannot write."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from herd.coordinator.storage.database import READ_MAX_STEPS, open_for_reading
from herd.errors import Unavailable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class TraceReader:
    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="herd-traces")
        self._connection: sqlite3.Connection | None = None
        self._in_use = threading.Lock()
        """Held during a query, and by the writer while it opens the database again."""

    async def ask(
        self,
        query: Callable[Concatenate[sqlite3.Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Runs the query without blocking the event loop.

        Raises `Unavailable` when the database cannot be read, and whatever the query raises.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: self._run(lambda c: query(c, *args, **kwargs)))

    def read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Runs the query and blocks until its result is known: for the start, before the event loop serves requests."""
        return self._executor.submit(lambda: self._run(lambda c: query(c, *args, **kwargs))).result()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Closes the connection, and runs no query until the end of the block. Waits for the query that is running.

        Called on the writer's thread.
        """
        with self._in_use:
            self._disconnect()
            yield

    def close(self, timeout_s: float) -> None:
        self._executor.submit(self._disconnect).result(timeout_s)
        self._executor.shutdown(wait=False)

    # --- on the reading thread ---

    def _run(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._in_use:
            try:
                return query(self._connect())
            except (sqlite3.Error, UnicodeDecodeError) as error:
                self._disconnect()
                raise Unavailable(f"the trace database cannot be read: {error}", code="traces_unavailable") from error

    def _connect(self) -> sqlite3.Connection:
        connection = self._connection
        if connection is None:
            self._connection = connection = open_for_reading(self.path, self._busy_timeout_s)
        # SQLite calls the handler after this many steps of a query; a true result interrupts the query.
        connection.set_progress_handler(lambda: 1, READ_MAX_STEPS)
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
