"""Enforces the limits of each user: concurrent requests, requests per minute, and tokens and GPU seconds per day.

A user is one that a trusted client names, else an API key, else an address (`identity.py`). The limit per minute is a
token bucket. The limits per day count what requests used when they end, in the day of UTC, which is an argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from herd.core.state.request import Request
from herd.errors import Refusal
from herd.trust.allowances import BUSY_RETRY_S, MINUTE_S

USERS_MAX: Final = 4096
"""Users whose usage is tracked; the least recently used one without a running request is dropped first."""
DAY_S: Final = 86400.0


@dataclass(frozen=True, slots=True)
class UserLimitSettings:
    """Limits of one user; 0 means unlimited."""

    concurrent_max: int = field(
        default=0,
        metadata={
            "env": "FLEET_USER_CONCURRENT_MAX",
            "min": 0,
            "help": "Maximum concurrent requests of one user, waiting ones included; 0 means unlimited.",
        },
    )
    requests_per_minute: int = field(
        default=0,
        metadata={
            "env": "FLEET_USER_REQUESTS_PER_MINUTE",
            "min": 0,
            "help": "Maximum requests per minute of one user; 0 means unlimited.",
        },
    )
    tokens_per_day: int = field(
        default=0,
        metadata={
            "env": "FLEET_USER_TOKENS_PER_DAY",
            "min": 0,
            "help": "Maximum tokens of one user in a day (UTC), prompts and answers; 0 means unlimited.",
        },
    )
    gpu_s_per_day: float = field(
        default=0.0,
        metadata={
            "env": "FLEET_USER_GPU_SECONDS_PER_DAY",
            "min": 0,
            "help": "Maximum seconds for which requests of one user occupy nodes in a day (UTC); 0 means unlimited.",
        },
    )

    @property
    def is_any(self) -> bool:
        return any((self.concurrent_max, self.requests_per_minute, self.tokens_per_day, self.gpu_s_per_day))


@dataclass(slots=True)
class _Usage:
    requests_left: float
    """The level of the token bucket at `refilled_at`."""
    refilled_at: float
    day: int
    running: int = 0
    tokens: int = 0
    gpu_s: float = 0.0


def limited_user(request: Request) -> str:
    """Whom the request counts against: the named user, else the key or address."""
    return f"user {request.user}" if request.user else request.tenant


class UserLimits:
    """`at` is unix time in seconds."""

    def __init__(self, settings: UserLimitSettings) -> None:
        self._settings = settings
        self._usages: dict[str, _Usage] = {}

    def __len__(self) -> int:
        return len(self._usages)

    def start_request(self, user: str, at: float) -> Refusal | None:
        """Counts a request that starts now, or returns a refusal with status 429.

        Call `finish_request` when the request ends.
        """
        usage, limits = self._usage_of(user, at), self._settings
        for name, used, limit in (
            ("tokens", usage.tokens, limits.tokens_per_day),
            ("GPU seconds", usage.gpu_s, limits.gpu_s_per_day),
        ):
            if limit and used >= limit:
                message = f"you have used your {limit:g} {name} of today; the next day begins at 00:00 UTC"
                return Refusal(429, "user_budget_exhausted", message, retry_after_s=math.ceil(DAY_S - at % DAY_S))
        if limits.concurrent_max and usage.running >= limits.concurrent_max:
            message = f"you are limited to {limits.concurrent_max} concurrent requests"
            return Refusal(429, "user_too_many_at_once", message, retry_after_s=BUSY_RETRY_S)
        if limits.requests_per_minute:
            rate = limits.requests_per_minute / MINUTE_S
            refilled = usage.requests_left + max(0.0, at - usage.refilled_at) * rate
            usage.requests_left, usage.refilled_at = min(float(limits.requests_per_minute), refilled), at
            if usage.requests_left < 1.0:
                message = f"you are limited to {limits.requests_per_minute} requests per minute"
                wait_s = math.ceil((1.0 - usage.requests_left) / rate)
                return Refusal(429, "user_rate_limited", message, retry_after_s=wait_s)
            usage.requests_left -= 1.0
        usage.running += 1
        return None

    def use(self, user: str, gpu_s: float) -> None:
        """Counts the seconds for which an attempt occupied a node."""
        usage = self._usages.get(user)
        if usage is not None:
            usage.gpu_s += gpu_s

    def finish_request(self, user: str, tokens: int) -> None:
        """Counts the end of a request and the tokens that it used."""
        usage = self._usages.get(user)
        if usage is not None:
            usage.running = max(0, usage.running - 1)
            usage.tokens += tokens

    def restore(self, user: str, at: float, tokens: int, gpu_s: float) -> None:
        """Sets what a user had used today before a restart."""
        usage = self._usage_of(user, at)
        usage.tokens, usage.gpu_s = tokens, gpu_s

    def _usage_of(self, user: str, at: float) -> _Usage:
        day = int(at // DAY_S)
        usage = self._usages.pop(user, None) or _Usage(float(self._settings.requests_per_minute), at, day)
        self._usages[user] = usage
        if usage.day != day:
            usage.day, usage.tokens, usage.gpu_s = day, 0, 0.0
        if len(self._usages) > USERS_MAX:
            idle = next((name for name, known in self._usages.items() if not known.running), None)
            if idle is not None:
                del self._usages[idle]
        return usage
