"""Collects a request body until it is complete, and measures how fast it arrives."""

from __future__ import annotations

from typing import Final

from herd.errors import Refusal
from herd.http1.chunked import ChunkedBody
from herd.http1.request_head import CHUNKED

TOO_MANY_UPLOADS: Final = Refusal(
    503, "too_many_uploads", "too many uploads in progress, try again shortly", retry_after_s=1.0
)
TOO_SLOW: Final = Refusal(408, "request_timeout", "the request body arrives too slowly")


class BufferedBody:
    """One body of `length` bytes, or CHUNKED with at most `max_bytes`; it began to arrive at `now`."""

    __slots__ = ("_chunks", "_length", "_mark_at", "_mark_bytes", "_plain", "_received_bytes")

    def __init__(self, length: int, max_bytes: int, now: float) -> None:
        self._length = length
        self._chunks = ChunkedBody(max_bytes) if length == CHUNKED else None
        self._plain = bytearray()
        self._received_bytes = 0
        self._mark_at = now
        self._mark_bytes = 0

    @property
    def content(self) -> bytes:
        return bytes(self._plain if self._chunks is None else self._chunks.content)

    def feed(self, data: bytes) -> bytes | None:
        """Takes received bytes. Returns those after the body; None if it is incomplete. Raises as `ChunkedBody`."""
        self._received_bytes += len(data)
        if self._chunks is not None:
            return self._chunks.feed(data)
        missing = self._length - len(self._plain)
        self._plain += data[:missing]
        return data[missing:] if len(data) >= missing else None

    def is_too_slow(self, now: float, grace_s: float, min_bytes_per_s: int) -> bool:
        """Whether fewer bytes arrived than allowed, on average over the last `grace_s` seconds."""
        if now - self._mark_at < grace_s:
            return False
        arrived_bytes = self._received_bytes - self._mark_bytes
        self._mark_at, self._mark_bytes = now, self._received_bytes
        return arrived_bytes < min_bytes_per_s * grace_s
