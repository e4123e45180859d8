"""Writes the progress of a download as the lines of Ollama's /api/pull, for each client that follows it."""

from __future__ import annotations

import msgspec

from herd.core.planning.transfer_queue import Transfer, TransferState


class PullLines:
    """What one client has seen of a transfer. A client that joins later gets the earlier steps at once."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._steps = 0
        self._is_begun = False
        self._sent: dict[str, tuple[int, int]] = {}

    def new(self) -> list[bytes]:
        """The lines since the last call; without news the newest one again, so that the connection stays in use."""
        transfer = self._transfer
        seen, unseen = transfer.steps[: self._steps], transfer.steps[self._steps :]
        self._steps = len(transfer.steps)
        changed = [step for step in seen if step[1] and transfer.layers.get(step[1]) != self._sent.get(step[1])]
        lines = [self._step(status, digest) for status, digest in (*changed, *unseen)]
        if transfer.state.is_over:
            return [*lines, self._end()]
        if not lines and (self._is_begun or transfer.state is TransferState.QUEUED):
            status, digest = transfer.steps[-1] if transfer.steps else (transfer.state.value, "")
            lines.append(self._step(status, digest))
        self._is_begun = True
        return lines

    def _step(self, status: str, digest: str) -> bytes:
        layer: dict[str, object] = {}
        if digest:
            completed, total = self._sent[digest] = self._transfer.layers.get(digest, (0, 0))
            layer = {"digest": digest, "total": total, "completed": completed}
        return self._line({"status": status, **layer})

    def _end(self) -> bytes:
        is_done = self._transfer.state is TransferState.DONE
        return self._line({"status": "success"} if is_done else {"error": self._transfer.error})

    def _line(self, fields: dict[str, object]) -> bytes:
        """Adds the node and the source, which Ollama's own clients ignore."""
        fields |= {"node": self._transfer.node_id, "source": self._transfer.source}
        return msgspec.json.encode(fields) + b"\n"
