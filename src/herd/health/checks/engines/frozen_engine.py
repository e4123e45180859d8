"""Finds engines that accept connections but answer nothing, although their agent is well."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names, on_each, restart
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    frozen = [(node, endpoint) for node in snapshot.online for endpoint in node.report.engines if endpoint.silent_s]
    if not frozen:
        return
    ollama = [node for node, endpoint in frozen if endpoint.kind == "ollama"]
    yield Finding(
        severity=Severity.CRITICAL,
        title=f"{names(f'{endpoint.kind} on {node.id}' for node, endpoint in frozen)}: frozen",
        cause="The engine accepts connections and answers nothing: it is stopped, or its GPU hangs.",
        evidence=tuple(
            Evidence(f"{endpoint.kind} on {node.id}", f"no answer for {endpoint.silent_s:.0f} s")
            for node, endpoint in frozen
        ),
        remedy="Restart the engine. Its requests have moved to other nodes, and return when it answers again.",
        commands=on_each(ollama, restart) if ollama else anywhere("herd doctor"),
        nodes=tuple(sorted({node.id for node, _ in frozen})),
    )


CHECK = Check("frozen_engine", "All engines answer their agents", find)
