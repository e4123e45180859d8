"""Finds which of several different models with one name has started a conversation."""

from __future__ import annotations

from herd.core.estimates.prefix_cache import PrefixCache
from herd.core.state.fleet import Fleet
from herd.core.state.request import Request


def digest_of_conversation(request: Request, fleet: Fleet, prefixes: PrefixCache) -> str:
    """The model's digest on the node with the longest cached prefix of this conversation. Empty if all nodes have the
    same digest, or if no node has a prefix cached."""
    model = request.model
    if len(fleet.models.digests(model)) < 2:
        return ""
    nodes = fleet.with_model(model)
    cached_tokens = {node.id: prefixes.cached_tokens(node.id, model, request.prefix) for node in nodes}
    best = max(nodes, key=lambda node: (cached_tokens[node.id], node.id))
    return best.report.models[model].digest if cached_tokens[best.id] else ""
