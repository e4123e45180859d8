"""Runs callbacks in the order of a virtual clock: those of the world, and the event loop of one process.

A process can be frozen, so that its callbacks run later, or killed, so that they never run. Equal times run in the
order in which they were planned, so a run depends on its seed alone.
"""

from __future__ import annotations

import asyncio
import heapq
import weakref
from asyncio import events
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

Arguments = TypeVarTuple("Arguments")

TURNS_MAX = 10_000
"""A process whose loop does not come to rest within this many callbacks is busy for ever."""

Connect = Callable[["VirtualLoop", Callable[[], Any], str], asyncio.Future[tuple[Any, Any]]]
"""Connects a protocol of this process to a host."""


class BusyForever(Exception):
    """A process plans more and more callbacks without a pause."""


class Clock:
    """The time of the world in seconds, and everything that is planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._planned: list[tuple[float, int, VirtualLoop | None, Callable[[], None]]] = []
        self._serial = 0

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Plans an action of the world."""
        self.at(self.now + delay_s, None, action)

    def at(self, when: float, loop: VirtualLoop | None, action: Callable[[], None]) -> None:
        """Plans an action of a process, or of the world if there is no `loop`."""
        self._serial += 1
        heapq.heappush(self._planned, (max(when, self.now), self._serial, loop, action))

    def step(self) -> bool:
        """Runs the next action, and then its process until that waits; False if nothing is planned."""
        if not self._planned:
            return False
        self.now, _, loop, action = heapq.heappop(self._planned)
        if loop is None:
            action()
        elif not loop.is_dead:
            if loop.frozen_until > self.now:
                self.at(loop.frozen_until, loop, action)
            else:
                loop.run(action)
        return True


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop of one process."""

    def __init__(self, clock: Clock, connect: Connect) -> None:
        super().__init__()
        self.clock = clock
        self.frozen_until = 0.0
        self.is_dead = False
        self.escaped: list[str] = []
        """The exceptions that reached the loop: each is a bug."""
        self._connect = connect
        self._waiting: deque[asyncio.Handle] = deque()
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        self._tasks.add(task)
        return task

    def run(self, action: Callable[[], None]) -> None:
        """Runs an action and all callbacks that are due after it. Raises `BusyForever`."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            self._call(action)
            turns = 0
            while self._waiting and not self.is_dead:
                handle = self._waiting.popleft()
                if not handle.cancelled():
                    handle._run()
                turns += 1
                if turns > TURNS_MAX:
                    raise BusyForever(f"{turns} callbacks at {self.clock.now:.3f}")
        finally:
            events._set_running_loop(before)

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - as a real loop, which logs it and continues
            self.call_exception_handler({"message": "a callback failed", "exception": error})

    def kill(self) -> None:
        """Nothing of this process runs any more."""
        self.is_dead = True
        self._waiting.clear()
        for task in list(self._tasks):
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                task.get_coro().close()
        self.close()

    def time(self) -> float:
        return self.clock.now

    def call_soon(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._waiting.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.clock.at(when, self, lambda: None if handle.cancelled() else handle._run())
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by the handle; the planned action then does nothing."""

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, *_: Any, **__: Any
    ) -> tuple[Any, Any]:
        return await self._connect(self, protocol_factory, host)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        if exception is not None and not isinstance(exception, Exception):
            if "future" in context:
                return  # a task that a violated invariant has ended; the run ends because of it
            raise exception
        self.escaped.append(f"{context.get('message')}: {exception!r}")
