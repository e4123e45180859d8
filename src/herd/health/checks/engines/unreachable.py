"""Finds nodes that send heartbeats but refuse connections, or answer 401 or 403."""

from __future__ import annotations

from collections.abc import Iterator

from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names, on_each, restart
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    refusing = [node for node in snapshot.online if not node.is_reachable]
    if refusing:
        yield Finding(
            severity=Severity.CRITICAL,
            title=f"{names(node.id for node in refusing)}: heartbeats arrive, but connections fail",
            cause="Possible causes: a firewall on that machine blocks the port, or the engine has stopped.",
            evidence=tuple(
                Evidence(node.id, ", ".join(endpoint.url for endpoint in node.report.engines) or "no engine")
                for node in refusing
            ),
            remedy="Restart the engine, and allow its port in the firewall.",
            commands=on_each(refusing, restart),
            nodes=tuple(node.id for node in refusing),
            key="refused",
        )
    unauthorized = [node for node in snapshot.online if not node.is_authorized]
    if unauthorized:
        yield Finding(
            severity=Severity.CRITICAL,
            title=f"{names(node.id for node in unauthorized)}: requests are answered with 401 or 403",
            cause="The engine of that machine requires an API key that its agent does not send, or has an allow-list.",
            evidence=tuple(Evidence(node.id, "answers 401 or 403") for node in unauthorized),
            remedy=f"On {names(node.id for node in unauthorized)}, set the engine's key and restart herd-node; "
            "if the machine was re-installed, pair it again.",
            commands=(*anywhere("herd nodes invite"), *anywhere("FLEET_NODE_ENGINE_KEY=KEY herd-node")),
            nodes=tuple(node.id for node in unauthorized),
            key="key",
        )


CHECK = Check("unreachable", "All online nodes are reachable", find)
