"""Prompts that the owner has asked to see, for a while: FLEET_CAPTURE. Off unless set; in memory alone; ends by itself.

Knows no route but its own. Nothing of it reaches a disk, a log or a trace; only who may do everything can read it, and
`/fleet/status`, the start and every reader of `herd status` are told that it is on.
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
"""Of one prompt; what is longer is cut, and says so."""
ENTRY_COST_BYTES = 512
"""What an entry takes beside its prompt, so that many small ones are bounded too."""


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """Whether prompts are kept to be looked at. See docs/security.md."""

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
    """One request as it was asked. `at` in unix seconds, `bytes` as it came."""

    request_id: str
    at: float
    path: str
    body: str
    bytes: int
    is_cut: bool


class Capture:
    def __init__(self, settings: CaptureSettings, now: Callable[[], float], unix_s: Callable[[], float]) -> None:
        """`now`: loop time, by which it ends."""
        self._settings = settings
        self._now = now
        self._unix_s = unix_s
        self._ends_at = now() + settings.lasts_s if settings.is_on else now()
        self._kept: deque[Captured] = deque()
        self._held_bytes = 0
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

    def take(self, request_id: str, path: str, body: bytes) -> None:
        """Called with every request while the setting is there; keeps nothing once it is over."""
        if not self.is_on:
            self.end()
            return
        text = body[:ENTRY_MAX_BYTES].decode("utf-8", "replace")
        self._kept.append(Captured(request_id, self._unix_s(), path, text, len(body), len(body) > ENTRY_MAX_BYTES))
        self._held_bytes += _cost(len(body))
        while self._held_bytes > self._settings.max_bytes:
            self._held_bytes -= _cost(self._kept.popleft().bytes)
            self._dropped += 1

    def end(self) -> None:
        """Nothing more is kept, and what was is forgotten."""
        self._ends_at = min(self._ends_at, self._now())
        self._kept.clear()
        self._held_bytes = 0

    def state(self) -> dict[str, object]:
        """For `/fleet/status`: never a prompt."""
        is_on = self.is_on
        return {
            "is_on": is_on,
            "ends_in_s": max(0.0, self._ends_at - self._now()),
            "requests": len(self._kept) if is_on else 0,
        }

    async def show(self, _: Request) -> Response:
        """What was asked while FLEET_CAPTURE is on, the oldest first."""
        if not self.is_on:
            self.end()
        answer = {**self.state(), "bytes": self._held_bytes, "dropped": self._dropped, "captured": list(self._kept)}
        return Response(
            msgspec.json.encode(answer), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    async def stop(self, _: Request) -> Response:
        """Ends the capture at once, and forgets what was kept."""
        self.end()
        return Response(msgspec.json.encode(self.state()), media_type="application/json")


def _cost(body_bytes: int) -> int:
    return min(body_bytes, ENTRY_MAX_BYTES) + ENTRY_COST_BYTES
