"""Builds the answers of the apps page: how much each app uses the fleet, and how long its requests wait.

The app of a request is its first tag, else what its headers name, else its API key, else its client address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.histograms import Counts, percentile
from herd.dashboard.pages import Page
from herd.dashboard.requests import KeyName
from herd.dashboard.uncounted import Uncounted
from herd.dashboard.usage import UsageLines
from herd.text import duration, number


class AppLine(Struct, frozen=True, kw_only=True):
    """`kind`: "tag", "client" (an app that its headers name), "user" (a tag `user:NAME`), "key", or "unlabelled"
    (then `app` is "Unknown app (ADDRESS)").
    `busy_s` is the compute time that the app used, `share` its share of all compute time, 0..1. `dialects` counts
    the requests of each client API."""

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


class Apps(Struct, frozen=True, kw_only=True):
    """`GET apps?range=` (also `tags`, `apps/tags`): apps with the most requests first. A request with two tags counts
    for its first tag only, so that the lines add up to the total; `by_tag` counts it for both. `data` repeats
    `by_tag`, as ollama-herd has it."""

    range: str
    from_at: float
    to_at: float
    apps: tuple[AppLine, ...]
    by_tag: tuple[dict[str, object], ...]
    data: tuple[dict[str, object], ...]
    summary: str
    uncounted: Uncounted | None = None


class AppDays(Struct, frozen=True):
    """Requests and tokens of one app, one value for each day."""

    app: str
    requests: tuple[int, ...]
    tokens: tuple[int, ...]


class AppsDaily(Struct, frozen=True):
    """`GET apps/daily?days=` (also `tags/daily`): `days` are the starts of the days in UTC."""

    days: tuple[float, ...]
    apps: tuple[AppDays, ...]
    data: tuple[dict[str, object], ...]
    uncounted: Uncounted | None = None


class UsageReport(Struct, frozen=True):
    """`GET usage?days=`: rows by day, node and model, by tag, and by key, with the field names of ollama-herd; and by
    user (`user_kind`: "user", "key" or "address") with `gpu_s`, the seconds of nodes that were used."""

    by_day: tuple[dict[str, object], ...]
    by_tag: tuple[dict[str, object], ...]
    by_key: tuple[dict[str, object], ...]
    by_user: tuple[dict[str, object], ...]
    totals: dict[str, object]
    uncounted: Uncounted | None = None


LONG_WAIT_MS = 1000.0
"""Shorter queue times are not named in the summary."""


class AppHistory(Struct, frozen=True):
    """Query results: sums by (kind, app) and by (kind, app, model), histograms by (kind, app) and measure, and requests
    by dialect."""

    sums: Mapping[tuple[str, ...], Mapping[str, float]]
    models: Mapping[tuple[str, ...], Mapping[str, float]]
    bins: Mapping[tuple[tuple[str, ...], int], Counts]
    dialects: Mapping[tuple[str, str], Mapping[str, int]]
    edges: Sequence[float]


def lines(history: AppHistory, key_name: KeyName) -> tuple[AppLine, ...]:
    """The apps with the most requests first."""
    total_ms = sum(sums["busy_ms"] for sums in history.sums.values())
    made = [
        _line(label(kind, app, key_name), (kind, app), sums, total_ms, history)
        for (kind, app), sums in history.sums.items()
    ]
    return tuple(sorted(made, key=lambda line: (-line.requests, line.app)))


def _line(shown: str, of: tuple[str, str], sums: Mapping[str, float], total_ms: float, history: AppHistory) -> AppLine:
    def measured(measure: int, share: float) -> float | None:
        return percentile(history.bins.get((of, measure), {}), history.edges, share)

    models = {key[2]: int(one["requests"]) for key, one in history.models.items() if key[:2] == of and one["requests"]}
    return AppLine(
        app=shown,
        kind=of[0],
        requests=int(sums["requests"]),
        completed=int(sums["completed"]),
        failed=int(sums["failed"]),
        rejected=int(sums["rejected"]),
        cancelled=int(sums["cancelled"]),
        prompt_tokens=int(sums["prompt_tokens"]),
        completion_tokens=int(sums["completion_tokens"]),
        busy_s=round(sums["busy_ms"] / 1000.0, 3),
        share=round(sums["busy_ms"] / total_ms, 4) if total_ms else 0.0,
        wait_p95_ms=measured(3, 0.95),
        ttft_p50_ms=measured(1, 0.5),
        ttft_p95_ms=measured(1, 0.95),
        latency_p95_ms=measured(2, 0.95),
        retries=int(sums["retries"]),
        models=models,
        dialects=dict(history.dialects.get(of, {})),
        last_seen_at=sums["last_at"],
    )


def label(kind: str, app: str, key_name: KeyName) -> str:
    """The display name of an app."""
    if kind == "unlabelled":
        return f"Unknown app ({app})" if app else "Unknown app"
    return f"key {key_name(app)}" if kind == "key" else "other apps" if kind == "other" else app


def summary(apps: Sequence[AppLine]) -> str:
    if not apps:
        return "No requests in this time range."
    requests = sum(line.requests for line in apps)
    waits = [(line.wait_p95_ms, line.app) for line in apps if line.wait_p95_ms is not None]
    longest_ms, app = max(waits, default=(0.0, ""))
    use = f"{number(requests, 'request')} from {number(len(apps), 'app')}, most from {apps[0].app}"
    if longest_ms < LONG_WAIT_MS:
        return f"{use}. Queue times are short."
    return f"{use}. Longest queue time: {app}, p95 {duration(longest_ms)}."


def days(rows: Sequence[Mapping[str, object]], uncounted: Uncounted | None = None) -> AppsDaily:
    """`rows` are by tag and day, with the field names of ollama-herd."""
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
    return AppsDaily(tuple(starts), tuple(made), tuple(dict(row) for row in rows), uncounted)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


PAGE = Page(
    "apps",
    "Apps",
    4,
    (
        DashboardRoute("GET", "apps", Apps),
        DashboardRoute("GET", "apps/daily", AppsDaily),
        DashboardRoute("GET", "usage", UsageReport),
        DashboardRoute("GET", "usage/lines", UsageLines),
    ),
)
