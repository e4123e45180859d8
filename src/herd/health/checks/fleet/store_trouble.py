"""Whether what happens is being recorded."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere
from herd.health.snapshot import Snapshot
from herd.text import gb, number

FREE_MIN_BYTES = 1_000_000_000


def find(snapshot: Snapshot) -> Iterator[Finding]:
    store = snapshot.store
    if store.failing_since is not None:
        yield Finding(
            Severity.CRITICAL,
            "Traces are not being stored",
            f"Requests are served, but not recorded: {store.problem or 'the disk takes nothing'}.",
            (
                Evidence("waiting in memory", number(store.waiting, "trace")),
                Evidence("lost", number(store.dropped, "trace")),
            ),
            "Free disk space, or choose another folder.",
            anywhere("herd --data-dir FOLDER"),
            since=store.failing_since,
            key="failing",
        )
    elif store.dropped or store.unusable:
        yield Finding(
            Severity.INFO,
            "Some traces were lost",
            "For a while they could not be written as fast as they came.",
            (
                Evidence("lost", number(store.dropped, "trace")),
                Evidence("could not be written down", number(store.unusable, "trace")),
            ),
            "A larger ring bridges longer troubles.",
            anywhere("FLEET_TRACE_RING_ROWS=50000 herd"),
            key="lost",
        )
    if store.free_bytes is not None and store.free_bytes < FREE_MIN_BYTES:
        yield Finding(
            Severity.WARNING,
            "The coordinator's disk is almost full",
            "Traces and logs will be dropped when there is no room.",
            (Evidence("free", gb(store.free_bytes)),),
            "Free some space, or keep traces for fewer days.",
            anywhere("FLEET_TRACE_RETENTION_DAYS=7 herd"),
            key="full",
        )


CHECK = Check("store_trouble", "Every request is recorded", find)
