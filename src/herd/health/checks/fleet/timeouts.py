"""Finds requests that no node could accept in time, or that reached their deadline."""

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
    timed_out = traffic.rejected + traffic.too_late
    if timed_out < max(COUNT_MIN, SHARE_MIN * traffic.requests):
        return
    yield Finding(
        severity=Severity.CRITICAL if timed_out >= SHARE_CRITICAL * traffic.requests else Severity.WARNING,
        title=f"{percent(timed_out / max(1, traffic.requests))} of the requests timed out",
        cause="The online nodes could not answer all requests in time.",
        evidence=(
            Evidence("rejected", f"{number(traffic.rejected, 'request')} in the last hour"),
            Evidence("deadline exceeded", f"{number(traffic.too_late, 'request')}"),
            Evidence("total", number(traffic.requests, "request")),
        ),
        remedy="Add a frequently requested model to another node; the command recommends which.",
        commands=anywhere("herd recommend"),
    )


SHARE_CRITICAL = 0.20

CHECK = Check("timeouts", "No request timeouts", find)
