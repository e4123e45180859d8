"""Builds the answers of the models page: use, speed and context use of each model on each node, and models on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.histograms import Counts, largest_value, merge_counts, percentile, rebin_doubling
from herd.dashboard.live import Job
from herd.dashboard.pages import Page
from herd.dashboard.uncounted import Uncounted
from herd.text import duration, number


class Histogram(Struct, frozen=True):
    """`counts[i]` values are at least `edges[i]` and less than `edges[i + 1]`; the last bin has no upper edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ContextUse(Struct, frozen=True):
    """Tokens of prompt and answer of completed requests. `allocated_tokens` is the largest context window with which a
    node has loaded the model, None if no node has loaded it. `truncated` counts requests that reached the end
    of the context window."""

    used: Histogram
    used_p50_tokens: int | None
    used_p95_tokens: int | None
    used_max_tokens: int | None
    allocated_tokens: int | None
    truncated: int


class ModelNodeLine(Struct, frozen=True, kw_only=True):
    """`state`: "hot" (loaded), "warm" (recently unloaded), "cold" (on disk), "gone" (no longer on the node)."""

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


class AliasLine(Struct, frozen=True, kw_only=True):
    """`models` in the owner's order, empty for a tier; `live` are those that answer now. `source`: "alias", "tier"."""

    name: str
    models: tuple[str, ...]
    live: tuple[str, ...]
    source: str


class AliasList(Struct, frozen=True, kw_only=True):
    """`are_listed`: lists of models show the aliases that are no patterns."""

    aliases: tuple[AliasLine, ...]
    are_listed: bool


class ModelLine(Struct, frozen=True, kw_only=True):
    """`has_drift`: the nodes have different digests of it. `fell_back_to`: models that answered instead of it, with
    request counts; `stood_in_for`: models instead of which it answered."""

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
    """`GET models?range=`: models with the most requests first."""

    range: str
    from_at: float
    to_at: float
    models: tuple[ModelLine, ...]
    summary: str
    uncounted: Uncounted | None = None


class ContextLine(Struct, frozen=True):
    model: str
    context: ContextUse


class ContextUsage(Struct, frozen=True):
    """`GET context-usage?range=`."""

    range: str
    from_at: float
    to_at: float
    models: tuple[ContextLine, ...]
    uncounted: Uncounted | None = None


class ModelOnDisk(Struct, frozen=True):
    """One model on one node's disk. `last_used_at` is None if no stored request used it."""

    name: str
    size_bytes: int
    digest: str
    loaded: bool
    pinned: bool
    last_used_at: float | None


class NodeModels(Struct, frozen=True):
    """`can_fetch`: its engine can pull models; `shares`: other nodes can copy models from it over the local network."""

    node_id: str
    disk_total_bytes: int | None
    disk_free_bytes: int | None
    can_fetch: bool
    shares: bool
    models: tuple[ModelOnDisk, ...]


class ModelManagement(Struct, frozen=True):
    """`GET model-management`. `jobs` are the pulls; `drift` has, for each model whose nodes differ, the nodes of each
    digest."""

    nodes: tuple[NodeModels, ...]
    jobs: tuple[Job, ...]
    pinned: tuple[str, ...]
    drift: Mapping[str, Mapping[str, Sequence[str]]]


class PullStarted(Struct, frozen=True):
    """`POST pull`: the job's progress is on the live topic `jobs`."""

    job_id: str
    node_id: str
    model: str


FIRST_EDGE_TOKENS = 256.0


class PresentModel(Struct, frozen=True, kw_only=True):
    """The present state of a model on a node."""

    model: str
    node_id: str
    state: str
    digest: str
    parameters: str
    quantization: str
    size_bytes: int
    context_tokens: int | None


class ModelHistory(Struct, frozen=True):
    """Query results: sums and histograms of the time to first token by model and node, histograms of the context use by
    model, times of last use, and fallbacks as (requested model, answering model, requests)."""

    sums: Mapping[tuple[str, ...], Mapping[str, float]]
    ttft: Mapping[tuple[str, ...], Counts]
    context: Mapping[str, Counts]
    last_used: Mapping[tuple[str, str], float]
    fallbacks: Sequence[tuple[str, str, int]]
    edges: Sequence[float]


def lines(present: Sequence[PresentModel], history: ModelHistory) -> tuple[ModelLine, ...]:
    """All models that are present or were requested, those with the most requests first."""
    names = {one.model for one in present} | {str(key[0]) for key in history.sums}
    made = [_line(name, [one for one in present if one.model == name], history) for name in names]
    return tuple(sorted(made, key=lambda line: (-line.requests, line.name)))


def _line(name: str, present: Sequence[PresentModel], history: ModelHistory) -> ModelLine:
    at = {one.node_id: one for one in present}
    nodes = [
        _on_node(name, node_id, at.get(node_id), history)
        for node_id in sorted({*at, *(key[1] for key in history.sums if key[0] == name and key[1])})
    ]
    sums = [sums for key, sums in history.sums.items() if key[0] == name]
    ttft = merge_counts(counts for key, counts in history.ttft.items() if key[0] == name)
    digests = tuple(sorted({one.digest for one in present if one.digest}))
    total = {column: sum(one[column] for one in sums) for column in _COLUMNS}
    return ModelLine(
        name=name,
        digests=digests,
        has_drift=len(digests) > 1,
        parameters=next((one.parameters for one in present if one.parameters), ""),
        disk_bytes=sum(one.size_bytes for one in present),
        requests=int(total["requests"]),
        completed=int(total["completed"]),
        failed=int(total["failed"]),
        prompt_tokens=int(total["prompt_tokens"]),
        completion_tokens=int(total["completion_tokens"]),
        tokens_per_s=_rate(total["decode_tokens"], total["decode_ms"]),
        ttft_p50_ms=percentile(ttft, history.edges, 0.5),
        ttft_p95_ms=percentile(ttft, history.edges, 0.95),
        cold_loads=int(total["cold_loads"]),
        load_lost_s=round(total["load_ms"] / 1000.0, 3),
        fell_back_to={answered: count for asked, answered, count in history.fallbacks if asked == name},
        stood_in_for={asked: count for asked, answered, count in history.fallbacks if answered == name},
        context=context_use(name, present, history, int(total["truncated"])),
        last_used_at=max((one.last_used_at for one in nodes if one.last_used_at), default=None),
        nodes=tuple(nodes),
    )


_COLUMNS = (
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


def _on_node(name: str, node_id: str, here: PresentModel | None, history: ModelHistory) -> ModelNodeLine:
    sums = history.sums.get((name, node_id)) or dict.fromkeys(_COLUMNS, 0.0)
    ttft = history.ttft.get((name, node_id), {})
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
        ttft_p50_ms=percentile(ttft, history.edges, 0.5),
        ttft_p95_ms=percentile(ttft, history.edges, 0.95),
        cold_loads=int(sums["cold_loads"]),
        load_lost_s=round(sums["load_ms"] / 1000.0, 3),
        last_used_at=history.last_used.get((name, node_id)),
    )


def context_use(name: str, present: Sequence[PresentModel], history: ModelHistory, truncated: int) -> ContextUse:
    counts = history.context.get(name, {})
    shares = [percentile(counts, history.edges, share) for share in (0.5, 0.95)]
    p50, p95, most = (
        None if value is None else int(value) for value in (*shares, largest_value(counts, history.edges))
    )
    windows = [one.context_tokens for one in present if one.context_tokens]
    return ContextUse(
        Histogram(*rebin_doubling(counts, history.edges, FIRST_EDGE_TOKENS)),
        p50,
        p95,
        most,
        max(windows, default=None),
        truncated,
    )


def _rate(tokens: float, ms: float) -> float | None:
    """Tokens per second of the requests whose durations the engine reported."""
    return round(tokens * 1000.0 / ms, 2) if tokens and ms else None


def summary(models: Sequence[ModelLine]) -> str:
    used = [line for line in models if line.requests]
    if not models:
        return "No models yet."
    if not used:
        return f"{number(len(models), 'model')}, none used in this time range."
    loads, lost_s = sum(line.cold_loads for line in used), sum(line.load_lost_s for line in used)
    cold = f"{number(loads, 'cold load')} took {duration(lost_s * 1000)} in total" if loads else "no cold loads"
    drift = [line.name for line in models if line.has_drift]
    versions = f" The nodes have different versions of {drift[0]}." if drift else ""
    return f"{len(used):,} of {number(len(models), 'model')} used, {cold}.{versions}"


PAGE = Page(
    "models",
    "Models",
    3,
    (
        DashboardRoute("GET", "models", Models),
        DashboardRoute("GET", "context-usage", ContextUsage),
        DashboardRoute("GET", "model-management", ModelManagement),
        DashboardRoute("GET", "aliases", AliasList),
        DashboardRoute("POST", "pull", PullStarted),
    ),
)
