"""Waits for an event in a fake, from the fake's own loop, another loop or a plain thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

TIMEOUT_S = 20.0
"""The duration of a failing wait; successful waits return immediately."""


class Waitable:
    """An object whose state can be waited for; it calls `changed()` after every change."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._woken: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def changed(self) -> None:
        with self._condition:
            self._condition.notify_all()
            woken = list(self._woken)
        for loop, event in woken:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def wait(self, ready: Callable[[], object], what: str = "the condition", timeout_s: float = TIMEOUT_S) -> None:
        """Blocks this thread until `ready()` is true. It must not be called on the loop that makes it true."""
        with self._condition:
            if not self._condition.wait_for(lambda: bool(ready()), timeout_s):
                raise TimeoutError(f"{what} did not happen within {timeout_s} s")

    async def until(
        self, ready: Callable[[], object], what: str = "the condition", timeout_s: float = TIMEOUT_S
    ) -> None:
        """The same as a coroutine, on any loop."""
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with self._condition:
            self._woken.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():
                    await event.wait()
                    event.clear()
        except TimeoutError as late:
            raise TimeoutError(f"{what} did not happen within {timeout_s} s") from late
        finally:
            with self._condition:
                self._woken.remove(entry)
