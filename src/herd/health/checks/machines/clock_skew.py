"""Nodes whose clock differs from the coordinator's: their logs do not line up, and what they sign grows old at once."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import names, on_each, set_clock
from herd.health.snapshot import Snapshot
from herd.text import duration

SKEW_MIN_S = 5.0
SKEW_BAD_S = 60.0


def find(snapshot: Snapshot) -> Iterator[Finding]:
    skewed = [
        (node, ahead_s)
        for node in snapshot.here
        if (ahead_s := node.clock_ahead_s) is not None and abs(ahead_s) >= SKEW_MIN_S
    ]
    if not skewed:
        return
    worst_s = max(abs(ahead_s) for _, ahead_s in skewed)
    yield Finding(
        Severity.WARNING if worst_s >= SKEW_BAD_S else Severity.INFO,
        f"{names(node.id for node, _ in skewed)}: the clock is wrong",
        "Or ours is, when it is all of them. Nothing here depends on it, but logs do not line up.",
        tuple(
            Evidence(node.id, f"{duration(1000 * abs(ahead_s))} {'ahead' if ahead_s > 0 else 'behind'}")
            for node, ahead_s in skewed
        ),
        "Have it take the time from the network.",
        on_each((node for node, _ in skewed), set_clock),
        tuple(node.id for node, _ in skewed),
    )


CHECK = Check("clock_skew", "The clocks agree", find)
