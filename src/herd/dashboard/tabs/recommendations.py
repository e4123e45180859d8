"""Recommendations: what should live where, with reason, cost, gain and doubt. Knows no rule; the advice is made elsewhere."""

from __future__ import annotations

from msgspec import Struct

from herd.dashboard import DashboardRoute
from herd.dashboard.tabs import Tab


class Cost(Struct, frozen=True, rename={"from_": "from"}):
    """`bytes` of disk for a pull, of memory for a pin; `seconds` until it is done, where it was reckoned. `from` is "lan", "internet" or ""."""

    bytes: int
    seconds: float
    from_: str


class Gain(Struct, frozen=True):
    """Seconds of waiting saved in a week like the last one, give or take; for a removal, the disk that it frees."""

    text: str
    seconds: float
    plus_minus: float
    frees_bytes: int


class ActionRequest(Struct, frozen=True):
    """The request that does it; None where nothing is to be done."""

    method: str
    path: str
    body: dict[str, str]


class Recommendation(Struct, frozen=True, kw_only=True):
    """`kind`: "pull", "pin", "delete" or "leave"; `rule` names what produced it."""

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


class BytesBar(Struct, frozen=True):
    before: int
    after: int
    total: int


class NodeChange(Struct, frozen=True):
    """What the node would hold if all of it were done; `disk_bytes` counts models alone, None where the disk is not known."""

    node_id: str
    disk_bytes: BytesBar | None
    memory_bytes: BytesBar


class Recommendations(Struct, frozen=True):
    """`GET recommendations`: the most useful first. Nothing is chosen beforehand, and nothing is done by itself."""

    at: float
    since_at: float | None
    """Since when there are records; None while there are none."""
    summary: str
    recommendations: tuple[Recommendation, ...]
    nodes: tuple[NodeChange, ...]


TAB = Tab("recommendations", "Recommendations", 7, (DashboardRoute("GET", "recommendations", Recommendations),))
