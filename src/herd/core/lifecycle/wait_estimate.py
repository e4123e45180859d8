"""Estimates the wait of the last queued request, from the rate at which requests start while others wait.

By Little's law the wait is the number of waiting requests times the seconds between two starts.
"""

from __future__ import annotations

from dataclasses import replace

from herd.errors import Refusal

EMA_WEIGHT = 0.1
"""Weight of the newest gap in the exponential moving average: about the last twenty starts count."""
DEFAULT_WAIT_S = 5.0
"""The estimate before the first start."""
MIN_S = 1.0
MAX_S = 60.0
RETRYABLE_STATUSES = (429, 503, 504)
"""Refusals with a Retry-After."""


class WaitEstimate:
    __slots__ = ("_gap_s", "_last_at")

    def __init__(self) -> None:
        self._gap_s: float | None = None
        self._last_at: float | None = None

    def record_start(self, now: float, is_contended: bool) -> None:
        """`is_contended`: other requests were waiting when this one started."""
        if not is_contended:
            self._last_at = None
            return
        if self._last_at is not None:
            gap_s = max(0.0, now - self._last_at)
            self._gap_s = gap_s if self._gap_s is None else self._gap_s + EMA_WEIGHT * (gap_s - self._gap_s)
        self._last_at = now

    def wait_s(self, ahead: int, now: float) -> float:
        """Seconds until `ahead` requests have started; longer if none has started for a while."""
        if self._gap_s is None:
            return DEFAULT_WAIT_S
        stalled_s = now - self._last_at if self._last_at is not None else 0.0
        return min(max(ahead * max(self._gap_s, stalled_s / max(1, ahead)), MIN_S), MAX_S)

    def with_retry_after(self, refusal: Refusal, ahead: int, now: float) -> Refusal:
        """The refusal with the seconds after which a retry makes sense, if its status is retryable."""
        if refusal.status not in RETRYABLE_STATUSES:
            return refusal
        wait_s = self.wait_s(ahead, now) if ahead or refusal.retry_after_s is None else 0.0
        return replace(refusal, retry_after_s=max(wait_s, refusal.retry_after_s or 0.0))
