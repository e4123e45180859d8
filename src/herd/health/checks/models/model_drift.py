"""Finds models whose digest differs between nodes although the name is the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from herd.core.state.fleet import ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import NodeNow, Snapshot

DIGEST_SHOWN = 12


def find(snapshot: Snapshot) -> Iterator[Finding]:
    digests: dict[tuple[str, ModelName], dict[str, list[NodeNow]]] = {}
    for node in snapshot.online:
        for name, model_info in node.report.models.items():
            if model_info.digest:
                digests.setdefault((model_info.engine.kind, name), {}).setdefault(model_info.digest, []).append(node)
    for (kind, name), by_digest in sorted(digests.items()):
        if len(by_digest) < 2:
            continue
        # Without dates, the most common version is assumed to be the newest.
        newest = max(by_digest, key=lambda digest: (_changed(by_digest[digest], name), len(by_digest[digest]), digest))
        stale = [node for digest, nodes in sorted(by_digest.items()) if digest != newest for node in nodes]
        yield Finding(
            severity=Severity.WARNING,
            title=f"{name}: different versions on different nodes",
            cause="The tag was updated on some nodes only.",
            evidence=tuple(
                Evidence(digest.removeprefix("sha256:")[:DIGEST_SHOWN], names(node.id for node in nodes))
                for digest, nodes in sorted(by_digest.items())
            ),
            remedy=f"Update the model on {names(node.id for node in stale)}; the command updates it on every node.",
            commands=anywhere(f"herd update {shlex.quote(name)}") if kind == "ollama" else (),
            nodes=tuple(node.id for node in stale),
            key=name,
        )


def _changed(nodes: list[NodeNow], name: ModelName) -> str:
    """RFC 3339 times sort as text if the zone is the same."""
    return max(node.report.models[name].modified_at for node in nodes)


CHECK = Check("model_drift", "Model versions match across nodes", find)
