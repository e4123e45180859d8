"""How soon the waiting gets shorter: the pace at which requests have started while others waited. Predicts no single request.

By Little's law those who wait, times the seconds between two starts, is how long the last of them will wait.
"""

from __future__ import annotations

from dataclasses import replace

from herd.errors import Refusal

NEWEST_SHARE = 0.1
"""Weight of the newest gap in the mean: about the last twenty starts count."""
UNKNOWN_S = 5.0
"""What is told while no start has been seen."""
LEAST_S = 1.0
MOST_S = 60.0
COME_BACK = (429, 503, 504)
"""Refusals after which trying again makes sense."""


class WaitEstimate:
    __slots__ = ("_gap_s", "_last_at")

    def __init__(self) -> None:
        self._gap_s: float | None = None
        self._last_at: float | None = None

    def started(self, at: float, is_contended: bool) -> None:
        """A request started at `at`, while others waited or not."""
        if not is_contended:
            self._last_at = None
            return
        if self._last_at is not None:
            gap_s = max(0.0, at - self._last_at)
            self._gap_s = gap_s if self._gap_s is None else self._gap_s + NEWEST_SHARE * (gap_s - self._gap_s)
        self._last_at = at

    def wait_s(self, ahead: int, at: float) -> float:
        """How long it will be until `ahead` requests have started. Nothing starting for long makes it longer."""
        if self._gap_s is None:
            return UNKNOWN_S
        stalled_s = at - self._last_at if self._last_at is not None else 0.0
        return min(max(ahead * max(self._gap_s, stalled_s / max(1, ahead)), LEAST_S), MOST_S)

    def timed(self, refusal: Refusal, ahead: int, at: float) -> Refusal:
        """The refusal with the time after which it may be worth to come again, where that makes sense."""
        if refusal.status not in COME_BACK:
            return refusal
        wait_s = self.wait_s(ahead, at) if ahead or refusal.retry_after_s is None else 0.0
        return replace(refusal, retry_after_s=max(wait_s, refusal.retry_after_s or 0.0))
