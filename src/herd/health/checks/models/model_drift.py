"""One name, several models: nodes whose copies of a tag differ answer differently."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from herd.core.state.fleet import ModelName
from herd.health import Check, Evidence, Finding, Severity
from herd.health.remedies import anywhere, names
from herd.health.snapshot import NodeNow, Snapshot

DIGEST_SHOWN = 12


def find(snapshot: Snapshot) -> Iterator[Finding]:
    homes: dict[tuple[str, ModelName], dict[str, list[NodeNow]]] = {}
    for node in snapshot.here:
        for name, card in node.report.models.items():
            if card.digest:
                homes.setdefault((card.engine.kind, name), {}).setdefault(card.digest, []).append(node)
    for (kind, name), by_digest in sorted(homes.items()):
        if len(by_digest) < 2:
            continue
        # The newest copy is taken as the right one; without dates, the most common.
        right = max(by_digest, key=lambda digest: (_changed(by_digest[digest], name), len(by_digest[digest]), digest))
        stale = [node for digest, nodes in sorted(by_digest.items()) if digest != right for node in nodes]
        yield Finding(
            Severity.WARNING,
            f"{name} is not the same model everywhere",
            "A tag was updated on some nodes and not on others.",
            tuple(
                Evidence(digest.removeprefix("sha256:")[:DIGEST_SHOWN], names(node.id for node in nodes))
                for digest, nodes in sorted(by_digest.items())
            ),
            f"Pull it again on {names(node.id for node in stale)}.",
            anywhere(f"ollama pull {shlex.quote(name)}") if kind == "ollama" else (),
            tuple(node.id for node in stale),
            name,
        )


def _changed(nodes: list[NodeNow], name: ModelName) -> str:
    """RFC 3339 sorts as text where the zone is the same; it is only a tie-break."""
    return max(node.report.models[name].modified_at for node in nodes)


CHECK = Check("model_drift", "A name means the same model everywhere", find)
