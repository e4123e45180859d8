"""Model insights: which models earn their memory, on which node. Knows nothing of apps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.histograms import Counts, doubling, largest, merged, percentile
from herd.dashboard.tabs import Tab
from herd.text import duration, number


class Histogram(Struct, frozen=True):
    """`counts[i]` lie at or above `edges[i]` and below `edges[i + 1]`; the last bin has no upper edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ContextUse(Struct, frozen=True):
    """Tokens of prompt and answer together, of completed requests. `allocated_tokens` is the largest window any node has loaded
    it with; None while it is in no memory. `truncated` ended because there was no more room."""

    used: Histogram
    used_p50_tokens: int | None
    used_p95_tokens: int | None
    used_max_tokens: int | None
    allocated_tokens: int | None
    truncated: int


class ModelNodeLine(Struct, frozen=True, kw_only=True):
    """`state`: "hot" (in memory), "warm" (unloaded lately), "cold" (on disk), "gone" (only in history)."""

    node_id: str
    state: str
    digest: str
    quantization: str
    size_bytes: int
    context_tokens: int | None
    requests: int
    completed: int
    completion_tokens: int
    tokens_per_s: float | None
    prompt_tokens_per_s: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    cold_loads: int
    load_lost_s: float
    last_used_at: float | None


class ModelLine(Struct, frozen=True, kw_only=True):
    """`has_drift`: its nodes do not have the same digest. `fell_back_to`/`stood_in_for`: other models and how often."""

    name: str
    digests: tuple[str, ...]
    has_drift: bool
    parameters: str
    disk_bytes: int
    requests: int
    completed: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    cold_loads: int
    load_lost_s: float
    fell_back_to: dict[str, int]
    stood_in_for: dict[str, int]
    context: ContextUse
    last_used_at: float | None
    nodes: tuple[ModelNodeLine, ...]


class Models(Struct, frozen=True):
    """`GET models?range=`: the busiest first, then those that nobody asked."""

    range: str
    from_at: float
    to_at: float
    models: tuple[ModelLine, ...]
    summary: str


class ContextLine(Struct, frozen=True):
    model: str
    context: ContextUse


class ContextUsage(Struct, frozen=True):
    """`GET context-usage?range=`."""

    range: str
    from_at: float
    to_at: float
    models: tuple[ContextLine, ...]


FIRST_EDGE_TOKENS = 256.0


class PresentModel(Struct, frozen=True, kw_only=True):
    """A model on a node as it is now."""

    model: str
    node_id: str
    state: str
    digest: str
    parameters: str
    quantization: str
    size_bytes: int
    context_tokens: int | None


class ModelHistory(Struct, frozen=True):
    """What the database says: sums by model and node; histograms of the first token (by both) and of context (by model); when each was
    used last; fallbacks as (asked, answered, how often)."""

    sums: Mapping[tuple[str, ...], Mapping[str, float]]
    ttft: Mapping[tuple[str, ...], Counts]
    context: Mapping[str, Counts]
    last_used: Mapping[tuple[str, str], float]
    fallbacks: Sequence[tuple[str, str, int]]
    edges: Sequence[float]


def lines(present: Sequence[PresentModel], past: ModelHistory) -> tuple[ModelLine, ...]:
    """Every model that is there or was asked, the busiest first."""
    names = {one.model for one in present} | {str(key[0]) for key in past.sums}
    made = [_line(name, [one for one in present if one.model == name], past) for name in names]
    return tuple(sorted(made, key=lambda line: (-line.requests, line.name)))


def _line(name: str, here: Sequence[PresentModel], past: ModelHistory) -> ModelLine:
    at = {one.node_id: one for one in here}
    nodes = [
        _on_node(name, node_id, at.get(node_id), past)
        for node_id in sorted({*at, *(key[1] for key in past.sums if key[0] == name and key[1])})
    ]
    sums = [sums for key, sums in past.sums.items() if key[0] == name]
    ttft = merged(counts for key, counts in past.ttft.items() if key[0] == name)
    digests = tuple(sorted({one.digest for one in here if one.digest}))
    total = {column: sum(one[column] for one in sums) for column in _WANTED}
    return ModelLine(
        name=name,
        digests=digests,
        has_drift=len(digests) > 1,
        parameters=next((one.parameters for one in here if one.parameters), ""),
        disk_bytes=sum(one.size_bytes for one in here),
        requests=int(total["requests"]),
        completed=int(total["completed"]),
        failed=int(total["failed"]),
        prompt_tokens=int(total["prompt_tokens"]),
        completion_tokens=int(total["completion_tokens"]),
        tokens_per_s=_rate(total["decode_tokens"], total["decode_ms"]),
        ttft_p50_ms=percentile(ttft, past.edges, 0.5),
        ttft_p95_ms=percentile(ttft, past.edges, 0.95),
        cold_loads=int(total["cold_loads"]),
        load_lost_s=round(total["load_ms"] / 1000.0, 3),
        fell_back_to={answered: count for asked, answered, count in past.fallbacks if asked == name},
        stood_in_for={asked: count for asked, answered, count in past.fallbacks if answered == name},
        context=context_use(name, here, past, int(total["truncated"])),
        last_used_at=max((one.last_used_at for one in nodes if one.last_used_at), default=None),
        nodes=tuple(nodes),
    )


_WANTED = (
    "requests",
    "completed",
    "failed",
    "prompt_tokens",
    "completion_tokens",
    "decode_tokens",
    "decode_ms",
    "prefill_tokens",
    "prefill_ms",
    "cold_loads",
    "load_ms",
    "truncated",
)


def _on_node(name: str, node_id: str, here: PresentModel | None, past: ModelHistory) -> ModelNodeLine:
    sums = past.sums.get((name, node_id)) or dict.fromkeys(_WANTED, 0.0)
    ttft = past.ttft.get((name, node_id), {})
    return ModelNodeLine(
        node_id=node_id,
        state=here.state if here else "gone",
        digest=here.digest if here else "",
        quantization=here.quantization if here else "",
        size_bytes=here.size_bytes if here else 0,
        context_tokens=here.context_tokens if here else None,
        requests=int(sums["requests"]),
        completed=int(sums["completed"]),
        completion_tokens=int(sums["completion_tokens"]),
        tokens_per_s=_rate(sums["decode_tokens"], sums["decode_ms"]),
        prompt_tokens_per_s=_rate(sums["prefill_tokens"], sums["prefill_ms"]),
        ttft_p50_ms=percentile(ttft, past.edges, 0.5),
        ttft_p95_ms=percentile(ttft, past.edges, 0.95),
        cold_loads=int(sums["cold_loads"]),
        load_lost_s=round(sums["load_ms"] / 1000.0, 3),
        last_used_at=past.last_used.get((name, node_id)),
    )


def context_use(name: str, here: Sequence[PresentModel], past: ModelHistory, truncated: int) -> ContextUse:
    counts = past.context.get(name, {})
    shares = [percentile(counts, past.edges, share) for share in (0.5, 0.95)]
    p50, p95, most = (None if value is None else int(value) for value in (*shares, largest(counts, past.edges)))
    windows = [one.context_tokens for one in here if one.context_tokens]
    return ContextUse(
        Histogram(*doubling(counts, past.edges, FIRST_EDGE_TOKENS)),
        p50,
        p95,
        most,
        max(windows, default=None),
        truncated,
    )


def _rate(tokens: float, ms: float) -> float | None:
    """Tokens a second, of requests of which the engine told how long it took."""
    return round(tokens * 1000.0 / ms, 2) if tokens and ms else None


def summary(made: Sequence[ModelLine]) -> str:
    asked = [line for line in made if line.requests]
    if not asked:
        return f"{number(len(made), 'model')} here; none was asked in this time." if made else "No model is here yet."
    loads, lost_s = sum(line.cold_loads for line in asked), sum(line.load_lost_s for line in asked)
    cold = (
        f"; {duration(lost_s * 1000)} went into {number(loads, 'cold load')}"
        if loads
        else "; nobody waited for a model to load"
    )
    drift = [line.name for line in made if line.has_drift]
    return f"{len(asked)} of {number(len(made), 'model')} asked{cold}{f'; {drift[0]} is not the same on all nodes' if drift else ''}."


TAB = Tab(
    "models",
    "Model insights",
    3,
    (DashboardRoute("GET", "models", Models), DashboardRoute("GET", "context-usage", ContextUsage)),
)
