"""Defines the faults of a fake as values that a test adds and removes at run time.

A fault applies to requests of its `model` and `path` (None: all requests), `times` times (None: until `heal`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum


class How(Enum):
    RESET = "reset"
    """The connection is reset (RST)."""
    FIN = "fin"
    """The connection is closed as after a complete answer."""
    STALL = "stall"
    """Nothing more is sent until `release()`."""


class Counting(Enum):
    WIRE = "wire"
    """All bytes of the answer, including head and chunk framing."""
    BODY = "body"
    """Only the bytes of the body."""


class Latch:
    """Blocks waiters until `open()`, which any thread may call at any time."""

    def __init__(self) -> None:
        self._is_open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_open(self) -> bool:
        return self._is_open

    def open(self) -> None:
        self._is_open = True
        for loop, event in self._waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        if self._is_open:
            return
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self._is_open:
            await event.wait()


def bare(name: str | None) -> str:
    """The name without the default tag: `m:latest` and `m` are the same model."""
    return (name or "").lower().removesuffix(":latest")


@dataclass(kw_only=True)
class Fault:
    model: str | None = None
    path: str | None = None
    times: int | None = None
    used: int = 0
    released: Latch = field(default_factory=Latch)

    def applies(self, model: str | None, path: str) -> bool:
        spent = self.times is not None and self.used >= self.times
        is_meant = self.model is None or bare(self.model) == bare(model)
        return not spent and is_meant and self.path in (None, path)

    def release(self) -> None:
        """Lets the requests that wait in this fault continue."""
        self.released.open()


@dataclass(kw_only=True)
class Hang(Fault):
    """The request is read, but not answered until `release()`."""


@dataclass(kw_only=True)
class Cut(Fault):
    """The answer is interrupted after `after_bytes` bytes."""

    how: How = How.RESET
    after_bytes: int = 0
    counting: Counting = Counting.WIRE


@dataclass(kw_only=True)
class Garbage(Fault):
    """Sends these bytes instead of an HTTP answer, then closes the connection."""

    data: bytes = b"\x00\xffnot http at all\r\n\r\n"


@dataclass(kw_only=True)
class Status(Fault):
    """Sends this answer instead of the correct one."""

    status: int = 500
    body: bytes = b'{"error":"llama runner process has terminated: exit status 2"}'
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json; charset=utf-8"),)


@dataclass(kw_only=True)
class RunnerDies(Fault):
    """The runner dies after `after_chunks` chunks: a last error line with status 200, or a 500 if nothing was sent."""

    after_chunks: int = 1
    text: str = "an error was encountered while running the model: unexpected EOF"


@dataclass(kw_only=True)
class EndsEarly(Fault):
    """The stream ends after `after_chunks` chunks without its last line (the engine stopped an endless repetition)."""

    after_chunks: int = 1


@dataclass(kw_only=True)
class Gate(Fault):
    """Holds a request until `release()` at the point `at`: "request", "load", or before chunk `chunk` ("chunk")."""

    at: str = "request"
    chunk: int = 0
    reached: int = 0
    """The number of requests that reached it."""
