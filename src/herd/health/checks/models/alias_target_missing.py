"""Finds aliases of which no model is in the fleet."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    dead = {name: wanted for name, wanted in snapshot.dead_aliases.items() if wanted}
    if dead and snapshot.online:
        first = next(iter(dead.values()))[0]
        yield Finding(
            severity=Severity.WARNING,
            title=f"{names(dead)}: no node has a model of this alias",
            cause="Requests with this name are refused with 404: an alias is never downloaded by itself.",
            evidence=tuple(Evidence(name, ", ".join(wanted)) for name, wanted in dead.items()),
            remedy="Download one of its models, or give the alias other models.",
            commands=anywhere(f"herd pull {first}"),
        )


CHECK = Check("alias_target_missing", "Every alias has a model in the fleet", find)
