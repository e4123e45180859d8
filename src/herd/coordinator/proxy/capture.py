"""Stores recent prompts in memory for debugging, if FLEET_CAPTURE is on.

Capture is off by default and ends by itself. No prompt is written to a disk, a log or a trace. Only admins can read the
prompts. `/fleet/status`, the log at the start and `herd status` show that the capture is on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.auth.routes import ApiRoute
from herd.trust.rights import Right

ENTRY_MAX_BYTES = 64 * 1024
"""A longer request body is truncated and marked."""
ENTRY_COST_BYTES = 512
"""The memory of an entry besides its body, so that the number of small entries is limited too."""


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """Whether prompts are stored for debugging. See docs/security.md."""

    is_on: bool = field(
        default=False,
        metadata={"env": "FLEET_CAPTURE", "help": "Keep prompts in memory for debugging (readable by admins only)."},
    )
    lasts_s: float = field(
        default=3600.0,
        metadata={
            "env": "FLEET_CAPTURE_SECONDS",
            "help": "Seconds after the start when capturing stops and captured prompts are deleted.",
            "min": 1,
            "max": 86400,
        },
    )
    max_bytes: int = field(
        default=4_000_000,
        metadata={
            "env": "FLEET_CAPTURE_BYTES",
            "help": "Maximum bytes of captured prompts; the oldest are deleted first.",
            "min": 10_000,
            "max": 1_000_000_000,
        },
    )


class Captured(msgspec.Struct):
    """One request. `at` is unix time; `bytes` is the length of the complete body."""

    request_id: str
    at: float
    path: str
    body: str
    bytes: int
    is_cut: bool


class Capture:
    def __init__(self, settings: CaptureSettings, now: Callable[[], float], unix_s: Callable[[], float]) -> None:
        """`now` is the loop time, which determines the end of the capture."""
        self._settings = settings
        self._now = now
        self._unix_s = unix_s
        self._ends_at = now() + settings.lasts_s if settings.is_on else now()
        self._captured: deque[Captured] = deque()
        self._stored_bytes = 0
        self._dropped = 0

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/fleet/capture", self.show, "GET", Right.ADMIN),
            ApiRoute("/fleet/capture/end", self.stop, "POST", Right.ADMIN),
        ]

    @property
    def is_on(self) -> bool:
        return self._now() < self._ends_at

    def add(self, request_id: str, path: str, body: bytes) -> None:
        """Called with every request if the setting is on; stores nothing after the end of the capture."""
        if not self.is_on:
            self.end()
            return
        text = body[:ENTRY_MAX_BYTES].decode("utf-8", "replace")
        self._captured.append(Captured(request_id, self._unix_s(), path, text, len(body), len(body) > ENTRY_MAX_BYTES))
        self._stored_bytes += _cost(len(body))
        while self._stored_bytes > self._settings.max_bytes:
            self._stored_bytes -= _cost(self._captured.popleft().bytes)
            self._dropped += 1

    def end(self) -> None:
        """Ends the capture and deletes the stored prompts."""
        self._ends_at = min(self._ends_at, self._now())
        self._captured.clear()
        self._stored_bytes = 0

    def state(self) -> dict[str, object]:
        """The state for `/fleet/status`, without prompts."""
        is_on = self.is_on
        return {
            "is_on": is_on,
            "ends_in_s": max(0.0, self._ends_at - self._now()),
            "requests": len(self._captured) if is_on else 0,
        }

    async def show(self, _: Request) -> Response:
        """Lists the requests captured while FLEET_CAPTURE is on, oldest first."""
        if not self.is_on:
            self.end()
        body = {**self.state(), "bytes": self._stored_bytes, "dropped": self._dropped, "captured": list(self._captured)}
        return Response(msgspec.json.encode(body), media_type="application/json", headers={"Cache-Control": "no-store"})

    async def stop(self, _: Request) -> Response:
        """Ends the capture at once and deletes the stored prompts."""
        self.end()
        return Response(msgspec.json.encode(self.state()), media_type="application/json")


def _cost(body_bytes: int) -> int:
    return min(body_bytes, ENTRY_MAX_BYTES) + ENTRY_COST_BYTES
