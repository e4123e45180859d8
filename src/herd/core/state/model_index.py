"""Finds the nodes that have a model, so that the cost of a decision does not depend on the size of the fleet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId

DIGESTS_CACHED_MAX = 256
"""Models whose digests are cached."""


class ModelIndex:
    def __init__(self) -> None:
        self._nodes: dict[ModelName, dict[NodeId, Node]] = {}
        self._digests: dict[ModelName, frozenset[str]] = {}

    def nodes(self, model: ModelName) -> Collection[Node]:
        """In the order in which they first reported the model."""
        return self._nodes.get(model, {}).values()

    def has(self, node_id: NodeId, model: ModelName) -> bool:
        return node_id in self._nodes.get(model, ())

    @property
    def names(self) -> list[ModelName]:
        return sorted(self._nodes)

    def digests(self, model: ModelName) -> frozenset[str]:
        """The different digests of the model, without the unknown one; cached until some node's models change."""
        known = self._digests.get(model)
        if known is None:
            if len(self._digests) >= DIGESTS_CACHED_MAX:
                self._digests.clear()
            known = frozenset(node.report.models[model].digest for node in self.nodes(model)) - {""}
            self._digests[model] = known
        return known

    def add(self, node: Node) -> None:
        """Adds a node for every model of its newest report."""
        for model in node.report.models:
            self._nodes.setdefault(model, {})[node.id] = node
            self._digests.pop(model, None)

    def remove(self, node: Node, keep: Mapping[ModelName, ModelInfo]) -> None:
        """Removes a node from every model of its newest report, except for those in `keep`."""
        for model in node.report.models:
            if model not in keep:
                self.drop(node, model)

    def drop(self, node: Node, model: ModelName) -> bool:
        """Whether the node was listed for the model until now."""
        nodes = self._nodes.get(model)
        if nodes is None or nodes.pop(node.id, None) is None:
            return False
        self._digests.pop(model, None)
        if not nodes:
            del self._nodes[model]
        return True
