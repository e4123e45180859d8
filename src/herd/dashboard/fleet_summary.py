"""The sentence that opens the dashboard: whether it is well, made from the nodes' states and who waits. Knows no history."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from herd.dashboard.nodes import NodeCard
from herd.text import join_names, number

SERVING = frozenset({"online", "busy", "degraded", "waking"})
"""States in which a node may be given requests."""
ASIDE = (
    ("yielding", "lent back to its owner", "lent back to their owners"),
    ("draining", "finishing what it has", "finishing what they have"),
    ("asleep", "asleep", "asleep"),
)
"""States that are nobody's trouble, in words for one and for several."""


class FleetSummary(Struct, frozen=True):
    """One sentence made from the data. `level`: "good", "attention", "bad", or "empty" while no node was ever here."""

    level: str
    sentence: str


def summarize_fleet(cards: Sequence[NodeCard], waiting: int, is_draining: bool = False) -> FleetSummary:
    """`waiting` counts requests that no node has yet."""
    if is_draining:
        return FleetSummary("attention", "The coordinator is ending: what runs may finish, nothing new is taken.")
    if not cards:
        return FleetSummary("empty", "No machine is here yet: start one with herd-node, and it appears by itself.")
    serving = [card for card in cards if card.state in SERVING]
    queue = f" {number(waiting, 'request')} {'waits' if waiting == 1 else 'wait'}." if waiting else ""
    if not serving:
        return FleetSummary("bad", f"Nobody can be served: {_rest(cards)}.{queue}")
    if not any(card.models_on_disk for card in serving):
        return FleetSummary("attention", f"{number(len(serving), 'machine')} here, and no model on any of them yet.")
    told = f"{len(serving)} of {number(len(cards), 'machine')} {'serves' if len(serving) == 1 else 'serve'}"
    rest, troubles = _rest(cards), [card for card in cards if card.state in ("degraded", "gone")]
    sentence = f"{told}{', ' + rest if rest else ''}.{queue}"
    return FleetSummary("attention", sentence) if troubles else FleetSummary("good", f"All good: {sentence}")


def _rest(cards: Sequence[NodeCard]) -> str:
    """Those that do not serve, or not well: by name with the reason where it is a trouble, else counted."""
    told = []
    for state, one, several in ASIDE:
        count = sum(card.state == state for card in cards)
        told += [f"{count} {'is' if count == 1 else 'are'} {one if count == 1 else several}"] if count else []
    degraded = [card for card in cards if card.state == "degraded"]
    told += [f"{degraded[0].node_id} is degraded ({degraded[0].why})"] if len(degraded) == 1 else []
    told += [f"{join_names([card.node_id for card in degraded])} are degraded"] if len(degraded) > 1 else []
    gone = [card.node_id for card in cards if card.state == "gone"]
    return ", ".join(told + ([f"{join_names(gone)} {'is' if len(gone) == 1 else 'are'} gone"] if gone else []))
