"""Apps: who uses the fleet, who waits. An app is what a request says of itself, else its key, else the address it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.histograms import Counts, percentile
from herd.dashboard.tabs import Tab
from herd.text import duration, number


class AppLine(Struct, frozen=True, kw_only=True):
    """`kind`: "tag", "user" (a tag `user:NAME`), "key" or "unlabelled" (then `app` is "unlabelled (from ADDRESS)"). `busy_s` are
    seconds in which nodes worked for it, `share` is its part of all such seconds, 0..1. `dialects` counts the newest 10,000 requests."""

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


class AppsDaily(Struct, frozen=True):
    """`GET apps/daily?days=` (also `tags/daily`): `days` are the first seconds of days in UTC."""

    days: tuple[float, ...]
    apps: tuple[AppDays, ...]
    data: tuple[dict[str, object], ...]


class UsageReport(Struct, frozen=True):
    """`GET usage?days=`: rows by day, node and model, by tag and by key, with the names of the seed."""

    by_day: tuple[dict[str, object], ...]
    by_tag: tuple[dict[str, object], ...]
    by_key: tuple[dict[str, object], ...]
    totals: dict[str, object]


class AppHistory(Struct, frozen=True):
    """What the database says: sums by (kind, app), by (kind, app, model), and histograms by (kind, app) and measure; languages."""

    sums: Mapping[tuple[str, ...], Mapping[str, float]]
    models: Mapping[tuple[str, ...], Mapping[str, float]]
    bins: Mapping[tuple[tuple[str, ...], int], Counts]
    dialects: Mapping[tuple[str, str], Mapping[str, int]]
    edges: Sequence[float]


def lines(past: AppHistory) -> tuple[AppLine, ...]:
    """The busiest first."""
    whole_ms = sum(sums["busy_ms"] for sums in past.sums.values())
    made = [_line(kind, app, sums, whole_ms, past) for (kind, app), sums in past.sums.items()]
    return tuple(sorted(made, key=lambda line: (-line.requests, line.app)))


def _line(kind: str, app: str, sums: Mapping[str, float], whole_ms: float, past: AppHistory) -> AppLine:
    def share_of(measure: int, share: float) -> float | None:
        return percentile(past.bins.get(((kind, app), measure), {}), past.edges, share)

    models = {
        key[2]: int(one["requests"]) for key, one in past.models.items() if key[:2] == (kind, app) and one["requests"]
    }
    return AppLine(
        app=label(kind, app),
        kind=kind,
        requests=int(sums["requests"]),
        completed=int(sums["completed"]),
        failed=int(sums["failed"]),
        rejected=int(sums["rejected"]),
        cancelled=int(sums["cancelled"]),
        prompt_tokens=int(sums["prompt_tokens"]),
        completion_tokens=int(sums["completion_tokens"]),
        busy_s=round(sums["busy_ms"] / 1000.0, 3),
        share=round(sums["busy_ms"] / whole_ms, 4) if whole_ms else 0.0,
        wait_p95_ms=share_of(3, 0.95),
        ttft_p50_ms=share_of(1, 0.5),
        ttft_p95_ms=share_of(1, 0.95),
        latency_p95_ms=share_of(2, 0.95),
        retries=int(sums["retries"]),
        models=models,
        dialects=dict(past.dialects.get((kind, app), {})),
        last_seen_at=sums["last_at"],
    )


def label(kind: str, app: str) -> str:
    """How an app is called."""
    if kind == "unlabelled":
        return f"unlabelled (from {app})" if app else "unlabelled"
    return f"key {app}" if kind == "key" else "others" if kind == "other" else app


def app_of(tags: Sequence[object], key_id: str | None, client_ip: str | None) -> tuple[str, str]:
    """Kind and app of a request, as the roll-ups tell them apart."""
    if tags:
        tag = str(tags[0])
        return ("user" if tag.startswith("user:") else "tag"), tag
    return ("key", key_id) if key_id else ("unlabelled", client_ip or "")


def summary(made: Sequence[AppLine]) -> str:
    if not made:
        return "Nobody asked anything in this time."
    first, requests = made[0], sum(line.requests for line in made)
    waits = [line for line in made if line.wait_p95_ms is not None]
    longest = max(waits, key=lambda line: line.wait_p95_ms or 0.0, default=None)
    told = f"{number(requests, 'request')} of {number(len(made), 'app')}; {first.app} asked most"
    is_long = longest is not None and (longest.wait_p95_ms or 0.0) >= 1000.0
    return (
        f"{told}; {longest.app} waited longest: {duration(longest.wait_p95_ms)} at the 95th percentile."
        if longest and is_long
        else f"{told}; nobody waited long."
    )


def days(rows: Sequence[Mapping[str, object]]) -> AppsDaily:
    """`rows` are by tag and day, as the seed's names have them."""
    starts = sorted({_number(row["day_bucket"]) for row in rows})
    cells = {(str(row["tag"]), _number(row["day_bucket"])): row for row in rows}
    made = [
        AppDays(
            tag,
            tuple(int(_number(cells.get((tag, day), {}).get("request_count"))) for day in starts),
            tuple(int(_number(cells.get((tag, day), {}).get("total_tokens"))) for day in starts),
        )
        for tag in sorted({tag for tag, _ in cells})
    ]
    return AppsDaily(tuple(starts), tuple(made), tuple(dict(row) for row in rows))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


TAB = Tab(
    "apps",
    "Apps",
    4,
    (
        DashboardRoute("GET", "apps", Apps),
        DashboardRoute("GET", "apps/daily", AppsDaily),
        DashboardRoute("GET", "usage", UsageReport),
    ),
)
