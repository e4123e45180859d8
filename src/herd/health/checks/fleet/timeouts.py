"""Requests that no node could take in time, or that met their own deadline."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere
from herd.health.snapshot import Snapshot
from herd.text import number, percent

COUNT_MIN = 3
SHARE_MIN = 0.02


def find(snapshot: Snapshot) -> Iterator[Finding]:
    traffic = snapshot.traffic
    lost = traffic.rejected + traffic.too_late
    if lost < max(COUNT_MIN, SHARE_MIN * traffic.requests):
        return
    yield Finding(
        Severity.CRITICAL if lost >= SHARE_CRITICAL * traffic.requests else Severity.WARNING,
        f"{percent(lost / max(1, traffic.requests))} of the requests waited in vain",
        "More was asked than the nodes that are there could answer in time.",
        (
            Evidence("refused", f"{number(traffic.rejected, 'request')} in the last hour"),
            Evidence("too late", f"{number(traffic.too_late, 'request')} met their deadline"),
            Evidence("all", number(traffic.requests, "request")),
        ),
        "See who waits for what; another node with that model would help most.",
        anywhere("herd recommend"),
    )


SHARE_CRITICAL = 0.20

CHECK = Check("timeouts", "Nobody waits in vain", find)
