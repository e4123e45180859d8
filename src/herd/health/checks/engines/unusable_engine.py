"""Finds engines that a node announces but that the coordinator cannot use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from herd.core.state.fleet import EngineEndpoint
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import Snapshot


def find(snapshot: Snapshot) -> Iterator[Finding]:
    unusable = [(node, endpoint) for node in snapshot.online for endpoint in node.report.engines if endpoint.problem]
    unreached = [(node, endpoint) for node, endpoint in unusable if not endpoint.remedy]
    if unreached:
        node_names = tuple(dict.fromkeys(node.id for node, _ in unreached))
        yield Finding(
            severity=Severity.WARNING,
            title=f"{names(node_names)}: an engine cannot be used, so its models are not listed",
            cause="The node announces an engine that the coordinator cannot reach from its own machine.",
            evidence=tuple(Evidence(node.id, endpoint.problem) for node, endpoint in unreached),
            remedy="Make the engine listen on all addresses, and restart the agent of that machine.",
            commands=anywhere("FLEET_NODE_MLX_BIND_HOST=0.0.0.0 herd-node"),
            nodes=node_names,
        )
    for node in snapshot.online:
        explained = [endpoint for endpoint in node.report.engines if endpoint.problem and endpoint.remedy]
        if explained:
            yield Finding(
                severity=Severity.WARNING,
                title=f"{node.id}: {explained[0].problem}, so its models are not listed",
                cause=f"Its agent on {node.id} found the engine and cannot use it.",
                evidence=tuple(Evidence(node.id, endpoint.problem) for endpoint in explained),
                remedy=" ".join(dict.fromkeys(f"On {node.id}: {endpoint.remedy}" for endpoint in explained)),
                commands=anywhere(_command(explained)),
                nodes=(node.id,),
                key=node.id,
            )


def _command(explained: Sequence[EngineEndpoint]) -> str:
    needs_key = any("_KEY" in endpoint.remedy for endpoint in explained)
    return "FLEET_NODE_ENGINE_KEY=KEY herd-node" if needs_key else "herd-node --engine-url URL"


CHECK = Check("unusable_engine", "Every announced engine can be used", find)
