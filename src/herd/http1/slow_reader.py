"""Notices a client that reads nothing of what is sent to it."""

from __future__ import annotations


class ReaderProgress:
    """How many of the bytes sent on one connection its client has taken, and when it last took some."""

    __slots__ = ("_at", "_taken_bytes")

    def __init__(self, now: float) -> None:
        self._taken_bytes = 0
        self._at = now

    def is_stuck(self, now: float, sent_bytes: int, unsent_bytes: int, limit_s: float) -> bool:
        """Whether bytes have waited for more than `limit_s` while the client took none."""
        taken_bytes = sent_bytes - unsent_bytes
        if not unsent_bytes or taken_bytes != self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._at = now
            return False
        return now - self._at > limit_s
