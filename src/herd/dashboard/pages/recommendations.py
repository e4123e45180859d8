"""Defines the answer of the recommendations page: models to pull, pin or delete, with reason, cost and gain."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.pages import Page
from herd.dashboard.uncounted import Uncounted


class Cost(Struct, frozen=True, rename={"from_": "from"}):
    """`bytes` of disk for a pull, of memory for a pin; `seconds` is the estimated duration, 0 where unknown. `from` is
    "lan", "internet" or ""."""

    bytes: int
    seconds: float
    from_: str


class Gain(Struct, frozen=True):
    """Seconds of waiting saved per week with the traffic of the last week, and their uncertainty; for a delete, the
    disk space freed."""

    text: str
    seconds: float
    plus_minus: float
    frees_bytes: int


class ActionRequest(Struct, frozen=True):
    """The API request that applies the recommendation."""

    method: str
    path: str
    body: dict[str, str]


class Recommendation(Struct, frozen=True, kw_only=True):
    """`kind`: "pull", "pin", "delete" or "leave" (no change needed); `rule` is the rule that produced it. `do` is None
    where there is nothing to do."""

    recommendation_id: str
    kind: str
    title: str
    node_id: str
    model: str
    reason: str
    rule: str
    cost: Cost
    gain: Gain
    do: ActionRequest | None


class BytesChange(Struct, frozen=True):
    before: int
    after: int
    total: int


class NodeChange(Struct, frozen=True):
    """Memory and disk of the node if all recommendations were applied; `disk_bytes` counts models only, None if
    unknown."""

    node_id: str
    disk_bytes: BytesChange | None
    memory_bytes: BytesChange


class Recommendations(Struct, frozen=True):
    """`GET recommendations`: largest gain first. Nothing is applied automatically."""

    at: float
    since_at: float | None
    """The time of the oldest request on record; None if there is none."""
    summary: str
    recommendations: tuple[Recommendation, ...]
    nodes: tuple[NodeChange, ...]
    uncounted: Uncounted | None = None


PAGE = Page("recommendations", "Recommendations", 7, (DashboardRoute("GET", "recommendations", Recommendations),))
