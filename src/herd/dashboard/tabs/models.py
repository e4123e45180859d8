"""Model insights: which models earn their memory, on which node. Knows nothing of apps."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import Answer
from herd.dashboard.tabs import Tab


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


class ModelOnNode(Struct, frozen=True):
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


class ModelLine(Struct, frozen=True):
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
    nodes: tuple[ModelOnNode, ...]


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


TAB = Tab("models", "Model insights", 3, (Answer("GET", "models", Models), Answer("GET", "context-usage", ContextUsage)))
