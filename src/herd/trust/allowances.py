"""How much each key may still ask: per minute, at the same time, per month. Knows no request and no clock.

Per minute is a bucket that refills steadily (so a burst may be as large as a minute's worth); per month counts tokens of
the calendar month that is handed in. Both are forgotten for keys that are not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from herd.errors import Refusal
from herd.trust.keys import ApiKey

KEYS_MAX = 4096
"""Keys whose use is remembered; the least recently used is forgotten first."""
MINUTE_S = 60.0
BUSY_RETRY_S = 1.0


@dataclass(slots=True)
class _Use:
    left: float
    """Requests that may still come at once."""
    counted_at: float
    running: int = 0
    month: str = ""
    tokens: int = 0


class Allowances:
    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def take(self, key: ApiKey, at: float, month: str) -> Refusal | None:
        """Counts one request that begins now, or says why it may not: 429. `month` as "2026-11"; ended by `give_back`."""
        use = self._use(key, at, month)
        if key.tokens_per_month and use.tokens >= key.tokens_per_month:
            return Refusal(
                429, "budget_exhausted", f"the key {key.name} has used its {key.tokens_per_month} tokens of {month}"
            )
        if key.concurrent_max and use.running >= key.concurrent_max:
            message = f"the key {key.name} may have {key.concurrent_max} requests at the same time"
            return Refusal(429, "too_many_at_once", message, retry_after_s=BUSY_RETRY_S)
        if key.requests_per_minute:
            rate = key.requests_per_minute / MINUTE_S
            use.left = min(float(key.requests_per_minute), use.left + (at - use.counted_at) * rate)
            use.counted_at = at
            if use.left < 1.0:
                message = f"the key {key.name} may ask {key.requests_per_minute} times a minute"
                return Refusal(429, "rate_limited", message, retry_after_s=math.ceil((1.0 - use.left) / rate))
            use.left -= 1.0
        use.running += 1
        return None

    def give_back(self, key_id: str, tokens: int) -> None:
        """A request has ended that used so many tokens."""
        use = self._uses.get(key_id)
        if use is not None:
            use.running = max(0, use.running - 1)
            use.tokens += tokens

    def recall(self, key: ApiKey, at: float, month: str, tokens: int) -> None:
        """What was used before a restart."""
        self._use(key, at, month).tokens = tokens

    def _use(self, key: ApiKey, at: float, month: str) -> _Use:
        use = self._uses.pop(key.id, None) or _Use(float(key.requests_per_minute), at, month=month)
        self._uses[key.id] = use
        if use.month != month:
            use.month, use.tokens = month, 0
        if len(self._uses) > KEYS_MAX:
            idle = next((one for one, other in self._uses.items() if not other.running), None)
            if idle is not None:
                del self._uses[idle]
        return use
