"""Which node probably still holds which beginning of a conversation. Guesses; chooses nobody, keeps no text.

A request carries the chained hashes of its first blocks (salted per process where they are made). An engine keeps as
many conversations as it has slots, and newer ones a few more in main memory; so each (node, model) remembers that many,
newest last. What was reloaded or restarted holds nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from herd.bounded import BoundedDict
from herd.core.state.fleet import ModelName, NodeId

BLOCK_TOKENS = 128
EXTRA_ENTRIES = 4
"""Conversations an engine keeps beyond its slots, in its prompt cache."""
PAIRS_MAX = 4096
BLOCKS_MAX = 512


class PrefixCache:
    def __init__(self) -> None:
        self._held = BoundedDict[tuple[NodeId, ModelName], OrderedDict[int, tuple[int, ...]]](PAIRS_MAX)

    def cached_tokens(self, node_id: NodeId, model: ModelName, blocks: Sequence[int]) -> int:
        """Tokens of the prompt that need not be read again there."""
        held = self._held.get((node_id, model))
        if not held or not blocks:
            return 0
        first, most = blocks[0], 0
        for other in held.values():
            if other[0] == first:
                most = max(most, _common(blocks, other))
        return BLOCK_TOKENS * most

    def served(self, node_id: NodeId, model: ModelName, blocks: Sequence[int], slots: int) -> None:
        """The node has read this prompt: it holds it now, in the place of its own beginning or of the oldest."""
        if not blocks:
            return
        key = (node_id, model)
        held = self._held.setdefault(key, OrderedDict())
        self._held.move_to_end(key)
        kept = tuple(blocks[:BLOCKS_MAX])
        for first, other in list(held.items()):
            # A longer turn of the same conversation replaces the shorter one: it is in the same slot.
            if other[0] == kept[0] and other == kept[: len(other)]:
                del held[first]
        held[kept[-1]] = kept
        while len(held) > slots + EXTRA_ENTRIES:
            held.popitem(last=False)

    def dropped(self, node_id: NodeId, model: ModelName | None = None) -> None:
        """The model was unloaded or reloaded there; or, without a model, the node restarted or left."""
        if model is not None:
            self._held.pop((node_id, model), None)
            return
        for key in [key for key in self._held if key[0] == node_id]:
            del self._held[key]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading blocks agree. Hashes are chained, so equal blocks mean equal beginnings: bisect instead of scan."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
