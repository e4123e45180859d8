"""Pairs of node and model where many requests fail."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot
from herd.text import number, percent

REQUESTS_MIN = 10
SHARE_WARNING, SHARE_CRITICAL = 0.05, 0.25


def find(snapshot: Snapshot) -> Iterator[Finding]:
    failing = [
        pair
        for pair in snapshot.traffic.pairs
        if pair.requests >= REQUESTS_MIN and pair.failed >= SHARE_WARNING * pair.requests
    ]
    if not failing:
        return
    failed, requests = sum(pair.failed for pair in failing), sum(pair.requests for pair in failing)
    yield Finding(
        Severity.CRITICAL if failed >= SHARE_CRITICAL * requests else Severity.WARNING,
        f"{percent(failed / requests)} of the requests for {names(pair.model for pair in failing)} fail",
        "Their clients saw an error; what the engine said is in each request's story.",
        tuple(
            Evidence(f"{pair.model} on {pair.node_id}", f"{pair.failed} of {number(pair.requests, 'request')} failed")
            for pair in failing
        ),
        "Look at the newest that failed.",
        anywhere("herd why last"),
        tuple(sorted({pair.node_id for pair in failing})),
    )


CHECK = Check("errors", "Hardly any request fails", find)
