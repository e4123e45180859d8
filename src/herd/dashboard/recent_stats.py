"""Computes tokens per second and the p50 of the time to first token over the last 60 seconds.

The stored traces give the same numbers: the tokens of requests that ended within the last 60 seconds, and the median
of their `time_to_first_token_ms`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

WINDOW_S = 60.0
REQUESTS_MAX = 4096
"""Older requests are dropped. Above 68 requests per second they cover less than 60 seconds."""


@dataclass(slots=True)
class _EndedRequest:
    at: float
    node_id: str
    tokens: int
    ttft_ms: float | None


class RecentStats:
    """`add` takes every request that ends; the other methods are called once a second."""

    def __init__(self) -> None:
        self._ended: deque[_EndedRequest] = deque(maxlen=REQUESTS_MAX)

    def add(self, at: float, node_id: str, tokens: int, ttft_ms: float | None) -> None:
        self._ended.append(_EndedRequest(at, node_id, tokens, ttft_ms))

    def tokens_per_s(self, now: float) -> dict[str, float]:
        """By node. Nodes that generated no tokens are absent."""
        sums: dict[str, int] = {}
        for one in self._recent(now):
            if one.tokens:
                sums[one.node_id] = sums.get(one.node_id, 0) + one.tokens
        window_s = self._window_s(now)
        return {node_id: round(tokens / window_s, 1) for node_id, tokens in sums.items()}

    def ttft_p50_ms(self, now: float) -> float | None:
        seen = sorted(one.ttft_ms for one in self._recent(now) if one.ttft_ms is not None)
        return round(seen[(len(seen) - 1) // 2], 1) if seen else None

    def _recent(self, now: float) -> Iterator[_EndedRequest]:
        ended = self._ended
        while ended and ended[0].at < now - WINDOW_S:
            ended.popleft()
        return iter(ended)

    def _window_s(self, now: float) -> float:
        """60 seconds, or less where the deque is full and covers a shorter time."""
        is_full = len(self._ended) == REQUESTS_MAX
        return max(1.0, now - self._ended[0].at) if is_full else WINDOW_S
