"""Stores what an administrator has set for each node, and applies every change to the core.

The file is small and is read once, at the start. A change is stored before it applies, so that what a command has
confirmed survives a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from herd.core.state.events import NodeAdministered
from herd.core.state.fleet import Fleet, NodeId
from herd.core.state.nodes.administration import DEFAULT, Administration
from herd.files import write_atomically

log = logging.getLogger("herd.nodes")

FILE = "node-administration.json"
FILE_MAX_BYTES = 4 * 1024 * 1024
NODES_MAX = 1024


class NodeAdministration:
    def __init__(
        self, folder: Path, fleet: Fleet, feed: Callable[[NodeAdministered], None], now: Callable[[], float]
    ) -> None:
        """`feed` takes the events for the core, and `now()` is their time."""
        self._path = folder / FILE
        self._fleet = fleet
        self._feed = feed
        self._now = now
        self._changing = asyncio.Lock()

    def open(self) -> None:
        """Reads the file. If it cannot be read, this is logged, and every node gets requests."""
        try:
            with self._path.open("rb") as file:
                stored = msgspec.json.decode(file.read(FILE_MAX_BYTES), type=dict[str, Administration])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.error("%s cannot be read, so no node is paused and none has labels: %s", self._path, error)
            return
        for node_id, administration in stored.items():
            self._feed(NodeAdministered(self._now(), NodeId(node_id), administration))

    def of(self, node_id: NodeId) -> Administration:
        return self._fleet.administrations.get(node_id, DEFAULT)

    async def change(self, node_id: NodeId, edit: Callable[[Administration], Administration]) -> Administration:
        """Stores and applies the edited administration. Raises `OSError`, and `OverflowError` for too many nodes; then
        nothing has changed."""
        async with self._changing:
            changed = edit(self.of(node_id))
            stored = {**self._fleet.administrations, node_id: changed}
            if changed == DEFAULT:
                del stored[node_id]
            if len(stored) > NODES_MAX:
                raise OverflowError(
                    f"something is set for {NODES_MAX} nodes already; remove one: herd nodes remove NAME"
                )
            await asyncio.to_thread(write_atomically, self._path, msgspec.json.encode(stored))
            self._feed(NodeAdministered(self._now(), node_id, None if changed == DEFAULT else changed))
        return changed

    async def forget(self, node_id: NodeId) -> None:
        """Removes everything that is set for a node that leaves the fleet. Raises `OSError`."""
        if node_id in self._fleet.administrations:
            await self.change(node_id, lambda _: DEFAULT)
