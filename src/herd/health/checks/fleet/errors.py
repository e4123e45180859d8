"""Finds models on nodes where many requests fail."""

from __future__ import annotations

import shlex
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
    request_id = next((pair.newest_failed_id for pair in failing if pair.newest_failed_id), "REQUEST_ID")
    failed, requests = sum(pair.failed for pair in failing), sum(pair.requests for pair in failing)
    yield Finding(
        severity=Severity.CRITICAL if failed >= SHARE_CRITICAL * requests else Severity.WARNING,
        title=f"{percent(failed / requests)} of the requests for {names(pair.model for pair in failing)} fail",
        cause="The clients received an error. The details of each request show the engine's message.",
        evidence=tuple(
            Evidence(f"{pair.model} on {pair.node_id}", f"{pair.failed} of {number(pair.requests, 'request')} failed")
            for pair in failing
        ),
        remedy="Inspect a recent failed request: the command shows its routing and its error message.",
        commands=anywhere(f"herd why {shlex.quote(request_id)}"),
        nodes=tuple(sorted({pair.node_id for pair in failing})),
    )


CHECK = Check("errors", "Few requests fail", find)
