"""Summarizes the state of the fleet in one sentence, from the nodes' states and the number of queued requests."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from herd.dashboard.nodes import NodeCard
from herd.text import join_names, number

SERVING = frozenset({"online", "busy", "degraded", "waking"})
"""States in which a node may get requests."""
PLANNED_ABSENCES = (
    ("yielding", "paused for local use"),
    ("paused", "paused by an administrator"),
    ("draining", "draining"),
    ("asleep", "asleep"),
)
"""States in which a node serves no requests although nothing is wrong."""


class FleetSummary(Struct, frozen=True):
    """One sentence about the fleet. `level` is "good", "attention", "bad", or "empty" while no node has joined."""

    level: str
    sentence: str


def summarize_fleet(cards: Sequence[NodeCard], queued: int, is_draining: bool = False) -> FleetSummary:
    """`queued` is the number of requests that have no node yet; `is_draining` is about the coordinator itself."""
    if is_draining:
        sentence = "The coordinator is shutting down: running requests may finish, new requests are rejected."
        return FleetSummary("attention", sentence)
    if not cards:
        return FleetSummary("empty", "No nodes yet. Run herd-node on a machine to add one.")
    serving = [card for card in cards if card.state in SERVING]
    queue = f" {number(queued, 'request')} queued." if queued else ""
    if not serving:
        return FleetSummary("bad", f"No node can serve requests: {_exceptions(cards)}.{queue}")
    if not any(card.models_on_disk for card in serving):
        return FleetSummary("attention", f"{number(len(serving), 'node')} online, but no node has a model yet.")
    exceptions = _exceptions(cards)
    sentence = (
        f"{len(serving):,} of {number(len(cards), 'node')} online{', ' + exceptions if exceptions else ''}.{queue}"
    )
    has_problem = any(card.state in ("degraded", "gone") for card in cards)
    return FleetSummary("attention", sentence) if has_problem else FleetSummary("good", f"All good: {sentence}")


def _exceptions(cards: Sequence[NodeCard]) -> str:
    """The nodes that do not serve normally: planned absences are counted, problems are named."""
    parts = [f"{count} {text}" for state, text in PLANNED_ABSENCES if (count := sum(c.state == state for c in cards))]
    degraded = [card for card in cards if card.state == "degraded"]
    if len(degraded) == 1:
        parts.append(f"{degraded[0].node_id} is degraded ({degraded[0].why})")
    elif degraded:
        parts.append(f"{join_names([card.node_id for card in degraded])} are degraded")
    offline = [card.node_id for card in cards if card.state == "gone"]
    if offline:
        parts.append(f"{join_names(offline)} {'is' if len(offline) == 1 else 'are'} offline")
    return ", ".join(parts)
