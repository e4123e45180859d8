"""Finds the nodes that have a block of a prompt in their caches, for a model that very many nodes have.

Block hashes are chained, so the nodes of a block are among the nodes of every earlier block of the same prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from herd.core.state.fleet import NodeId


class BlockHolders:
    """For each block the nodes that hold it, with the number of their cached prompts that contain it."""

    def __init__(self) -> None:
        self._nodes: dict[int, dict[NodeId, int]] = {}

    def add(self, node_id: NodeId, blocks: Iterable[int]) -> None:
        for block in blocks:
            nodes = self._nodes.get(block)
            if nodes is None:
                self._nodes[block] = {node_id: 1}
            else:
                nodes[node_id] = nodes.get(node_id, 0) + 1

    def remove(self, node_id: NodeId, blocks: Iterable[int]) -> None:
        for block in blocks:
            nodes = self._nodes.get(block)
            if nodes is None or node_id not in nodes:
                continue
            nodes[node_id] -= 1
            if not nodes[node_id]:
                del nodes[node_id]
                if not nodes:
                    del self._nodes[block]

    def of(self, block: int) -> Collection[NodeId]:
        return self._nodes.get(block, ())

    def shared_blocks(self, blocks: Sequence[int], nodes_max: int) -> int:
        """How many leading blocks more than `nodes_max` nodes hold, found by bisection."""
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.of(blocks[middle - 1])) > nodes_max:
                low = middle
            else:
                high = middle - 1
        return low
