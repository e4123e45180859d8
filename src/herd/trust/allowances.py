"""Enforces the limits of each API key: requests per minute, concurrent requests, and tokens per month.

The limit per minute is a token bucket that refills steadily, so one burst can use a whole minute's requests. The limit
per month counts tokens in the calendar month, which is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from herd.errors import Refusal
from herd.trust.keys import ApiKey

KEYS_MAX = 4096
"""Keys whose usage is tracked; the least recently used idle key is dropped first."""
MINUTE_S = 60.0
BUSY_RETRY_S = 1.0


@dataclass(slots=True)
class _Usage:
    requests_left: float
    """The level of the token bucket at `refilled_at`."""
    refilled_at: float
    running: int = 0
    month: str = ""
    tokens: int = 0


class Allowances:
    def __init__(self) -> None:
        self._usages: dict[str, _Usage] = {}

    def __len__(self) -> int:
        return len(self._usages)

    def start_request(self, key: ApiKey, at: float, month: str) -> Refusal | None:
        """Counts one request that starts now, or returns a refusal with status 429.

        `month` is the calendar month, for example "2026-11". Call `finish_request` when the request ends.
        """
        usage = self._usage_of(key, at, month)
        if key.tokens_per_month and usage.tokens >= key.tokens_per_month:
            return Refusal(
                429, "budget_exhausted", f"key {key.name} has used its monthly limit of {key.tokens_per_month} tokens"
            )
        if key.concurrent_max and usage.running >= key.concurrent_max:
            message = f"key {key.name} is limited to {key.concurrent_max} concurrent requests"
            return Refusal(429, "too_many_at_once", message, retry_after_s=BUSY_RETRY_S)
        if key.requests_per_minute:
            rate = key.requests_per_minute / MINUTE_S
            usage.requests_left = min(
                float(key.requests_per_minute), usage.requests_left + max(0.0, at - usage.refilled_at) * rate
            )
            usage.refilled_at = at
            if usage.requests_left < 1.0:
                message = f"key {key.name} is limited to {key.requests_per_minute} requests per minute"
                return Refusal(
                    429, "rate_limited", message, retry_after_s=math.ceil((1.0 - usage.requests_left) / rate)
                )
            usage.requests_left -= 1.0
        usage.running += 1
        return None

    def finish_request(self, key_id: str, tokens: int) -> None:
        """Counts the end of a request and the tokens that it used."""
        usage = self._usages.get(key_id)
        if usage is not None:
            usage.running = max(0, usage.running - 1)
            usage.tokens += tokens

    def restore(self, key: ApiKey, at: float, month: str, tokens: int) -> None:
        """Sets the tokens that were used this month before a restart."""
        self._usage_of(key, at, month).tokens = tokens

    def _usage_of(self, key: ApiKey, at: float, month: str) -> _Usage:
        usage = self._usages.pop(key.id, None) or _Usage(float(key.requests_per_minute), at, month=month)
        self._usages[key.id] = usage
        if usage.month != month:
            usage.month, usage.tokens = month, 0
        if len(self._usages) > KEYS_MAX:
            idle = next((key_id for key_id, known in self._usages.items() if not known.running), None)
            if idle is not None:
                del self._usages[idle]
        return usage
