"""Reports problems of the trace store: failed, late and lost traces, a disk that is almost full."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere
from herd.health.snapshot import Snapshot
from herd.text import duration, gb, number

FREE_MIN_BYTES = 1_000_000_000
LATE_S = 10.0
"""A trace that waits for this long is late: usually each is written within a second."""


def find(snapshot: Snapshot) -> Iterator[Finding]:
    store = snapshot.store
    if store.failing_since is not None:
        yield Finding(
            severity=Severity.CRITICAL,
            title="Traces are not being recorded",
            cause=f"Requests are served, but not recorded: {store.problem or 'the database cannot be written'}.",
            evidence=(
                Evidence("waiting in memory", number(store.waiting, "trace")),
                Evidence("lost", number(store.dropped, "trace")),
            ),
            remedy="Free disk space, or use another data folder.",
            commands=anywhere("herd --data-dir FOLDER"),
            since=store.failing_since,
            key="failing",
        )
    elif store.dropped or store.unusable:
        yield Finding(
            severity=Severity.INFO,
            title="Some traces were lost",
            cause="Traces arrived faster than they could be written, or they were invalid.",
            evidence=(
                Evidence("lost", number(store.dropped, "trace")),
                Evidence("invalid", number(store.unusable, "trace")),
            ),
            remedy="Use a larger buffer, which keeps traces while the disk is slow or full.",
            commands=anywhere("FLEET_TRACE_RING_ROWS=50000 herd"),
            key="lost",
        )
    elif store.oldest_s >= LATE_S:
        yield Finding(
            severity=Severity.WARNING,
            title="Traces are written late",
            cause="Requests end faster than their traces are written, or the disk is slow. Pages lack the newest ones.",
            evidence=(
                Evidence("waiting in memory", number(store.waiting, "trace")),
                Evidence("oldest", duration(1000 * store.oldest_s)),
            ),
            remedy="Move the data folder to a faster disk, or use a larger buffer so that no trace is lost.",
            commands=anywhere("FLEET_TRACE_RING_ROWS=50000 herd"),
            key="late",
        )
    if store.free_bytes is not None and store.free_bytes < FREE_MIN_BYTES:
        yield Finding(
            severity=Severity.WARNING,
            title="The coordinator's disk is almost full",
            cause="Traces and logs are lost when the disk is full.",
            evidence=(Evidence("free", gb(store.free_bytes)),),
            remedy="Free disk space, or keep traces for fewer days.",
            commands=anywhere("FLEET_TRACE_RETENTION_DAYS=7 herd"),
            key="full",
        )


CHECK = Check("store_trouble", "All requests are recorded", find)
