"""Lists nodes in the order in which they changed, so that an index over many nodes looks only at those that did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herd.core.state.fleet import NodeId

KEPT_MAX = 8192
"""Newest changes that are stored. A reader that is further behind looks at every node again."""


class ChangedNodes:
    """Readers keep a position of their own, and ask for what came after it."""

    def __init__(self) -> None:
        self._ids: list[NodeId] = []
        self._dropped = 0

    @property
    def position(self) -> int:
        """The number of changes until now."""
        return self._dropped + len(self._ids)

    def note(self, node_id: NodeId) -> None:
        self._ids.append(node_id)
        if len(self._ids) > KEPT_MAX:
            half = KEPT_MAX // 2
            del self._ids[:half]
            self._dropped += half

    def since(self, position: int) -> Sequence[NodeId] | None:
        """The nodes that changed after this position, some of them repeatedly; None if too long ago."""
        if position < self._dropped:
            return None
        return self._ids[position - self._dropped :]
