"""Apps: who uses the fleet, who waits. An app is what a request says of itself, else its key, else the address it came from."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import Answer
from herd.dashboard.tabs import Tab


class AppLine(Struct, frozen=True):
    """`kind`: "tag", "user" (a tag `user:NAME`), "key" or "unlabelled" (then `app` is "unlabelled (from ADDRESS)"). `busy_s` are
    seconds in which nodes worked for it, `share` is its part of all such seconds, 0..1."""

    app: str
    kind: str
    requests: int
    completed: int
    failed: int
    rejected: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    busy_s: float
    share: float
    wait_p95_ms: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    latency_p95_ms: float | None
    retries: int
    models: dict[str, int]
    dialects: dict[str, int]
    last_seen_at: float | None


class Apps(Struct, frozen=True):
    """`GET apps?range=` (also `tags`, `apps/tags`): the busiest first. A request with two tags counts for the first of them only,
    so that the lines sum up to the whole; `by_tag` counts it for both. `data` repeats `by_tag` under the seed's name."""

    range: str
    from_at: float
    to_at: float
    apps: tuple[AppLine, ...]
    by_tag: tuple[dict[str, object], ...]
    data: tuple[dict[str, object], ...]
    summary: str


class AppDays(Struct, frozen=True):
    """One app's line of the stacked area: as many values as there are days."""

    app: str
    requests: tuple[int, ...]
    tokens: tuple[int, ...]


class Daily(Struct, frozen=True):
    """`GET apps/daily?days=` (also `tags/daily`): `days` are the first seconds of days in UTC."""

    days: tuple[float, ...]
    apps: tuple[AppDays, ...]
    data: tuple[dict[str, object], ...]


class Usage(Struct, frozen=True):
    """`GET usage?days=`: rows by day, node and model, by tag and by key, with the names of the seed."""

    by_day: tuple[dict[str, object], ...]
    by_tag: tuple[dict[str, object], ...]
    by_key: tuple[dict[str, object], ...]
    totals: dict[str, object]


TAB = Tab(
    "apps", "Apps", 4,
    (Answer("GET", "apps", Apps), Answer("GET", "apps/daily", Daily), Answer("GET", "usage", Usage)),
)  # fmt: skip
