"""Estimates which node has which prompt prefixes in its cache.

A request carries the chained hashes of its first blocks (salted for each process). An engine caches as many
conversations as it has slots, and recent versions a few more in main memory; so this number is remembered for each node
and model, newest last. After a reload or a restart the cache is empty. No text is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from herd.bounded import BoundedDict
from herd.core.estimates.block_holders import BlockHolders
from herd.core.state.fleet import ModelName, NodeId

BLOCK_TOKENS = 128
EXTRA_ENTRIES = 4
"""Conversations that an engine caches beyond its slots."""
PAIRS_MAX = 4096
BLOCKS_MAX = 512


class PrefixCache:
    def __init__(self) -> None:
        self._prefixes = BoundedDict[tuple[NodeId, ModelName], OrderedDict[int, tuple[int, ...]]](PAIRS_MAX)
        self._holders: dict[ModelName, BlockHolders] = {}

    def holders(self, model: ModelName) -> BlockHolders:
        """The nodes that hold each block of the model's prompts. From the first call on they are updated."""
        found = self._holders.get(model)
        if found is None:
            found = self._holders[model] = BlockHolders()
            for (node_id, other), cached in self._prefixes.items():
                if other == model:
                    for prefix in cached.values():
                        found.add(node_id, prefix)
        return found

    def forget_holders(self, model: ModelName) -> None:
        self._holders.pop(model, None)

    def cached_tokens(self, node_id: NodeId, model: ModelName, blocks: Sequence[int]) -> int:
        """Prompt tokens that are probably cached on the node."""
        cached = self._prefixes.get((node_id, model))
        if not cached or not blocks:
            return 0
        first, longest = blocks[0], 0
        for other in cached.values():
            if other[0] == first:
                longest = max(longest, _equal_leading_blocks(blocks, other))
        return BLOCK_TOKENS * longest

    def add(self, node_id: NodeId, model: ModelName, blocks: Sequence[int], slots: int) -> None:
        """Adds a prompt that the node processes: it replaces a prefix of itself, or the oldest entry."""
        if not blocks:
            return
        key, holders = (node_id, model), self._holders.get(model)
        cached = self._prefixes.get(key)
        if cached is None:
            cached = self._new_pair(key)
        self._prefixes.move_to_end(key)
        newest = tuple(blocks[:BLOCKS_MAX])
        removed: list[tuple[int, ...]] = []
        for first, other in list(cached.items()):
            # A longer turn of the same conversation replaces the shorter one, because it uses the same slot.
            if other[0] == newest[0] and other == newest[: len(other)]:
                removed.append(cached.pop(first))
        if newest[-1] in cached:
            removed.append(cached[newest[-1]])
        cached[newest[-1]] = newest
        while len(cached) > slots + EXTRA_ENTRIES:
            removed.append(cached.popitem(last=False)[1])
        if holders is not None:
            holders.add(node_id, newest)
            for prefix in removed:
                holders.remove(node_id, prefix)

    def _new_pair(self, key: tuple[NodeId, ModelName]) -> OrderedDict[int, tuple[int, ...]]:
        if len(self._prefixes) >= PAIRS_MAX:
            self._remove(next(iter(self._prefixes)))
        created = self._prefixes[key] = OrderedDict()
        return created

    def _remove(self, key: tuple[NodeId, ModelName]) -> None:
        cached, holders = self._prefixes.pop(key, None), self._holders.get(key[1])
        if cached and holders is not None:
            for prefix in cached.values():
                holders.remove(key[0], prefix)

    def drop(self, node_id: NodeId, model: ModelName | None = None) -> None:
        """Removes the prompts of a model that was unloaded or reloaded; without `model`, all prompts of the node."""
        if model is not None:
            self._remove((node_id, model))
            return
        for key in [key for key in self._prefixes if key[0] == node_id]:
            self._remove(key)


def _equal_leading_blocks(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of equal leading blocks, found by bisection: hashes are chained, so equal blocks mean equal
    prefixes."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
