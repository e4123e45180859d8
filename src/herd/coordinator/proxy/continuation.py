"""What a client was told of a stream, so that another node can write on when its node dies. Chooses no node, sends nothing."""

from __future__ import annotations

from typing import Final

from herd.dialects import Dialect, Resumption, Timestamp
from herd.protocols.conversation import ParsedRequest
from herd.protocols.resumption import continuation_request

_NEWS: Final = b'"delta":'
TOLD_MAX_BYTES: Final = 1 << 20
"""An answer longer than this is not gone on with: it would have to be kept whole."""


class ForwardedBytes:
    """The bytes that were forwarded, and the nodes they came from; too many bytes are not kept at all."""

    __slots__ = ("_parts", "_size_bytes", "nodes")

    def __init__(self) -> None:
        self._parts: list[bytes] | None = []
        self._size_bytes = 0
        self.nodes: list[str] = []

    def note(self, data: bytes) -> None:
        if self._parts is None:
            return
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > TOLD_MAX_BYTES:
            self._parts = None

    def pieces(self, dialect: Dialect, ask: ParsedRequest, request_id: str, moment: Timestamp) -> int | None:
        """How many pieces of the answer were forwarded; None where too much was to be kept. A stream that nobody goes on with is not
        read: the events that bring something new are counted in it."""
        if self._parts is None:
            return None
        told = b"".join(self._parts)
        resumed = dialect.resume(ask, ask.model, request_id, moment, told, "")
        return resumed.partial_answer.chunks if resumed is not None else told.count(_NEWS)

    def resume(
        self, dialect: Dialect, ask: ParsedRequest, model: str, request_id: str, moment: Timestamp
    ) -> Resumption | None:
        """What another node needs to write on, or None where the join would be a guess."""
        told = b"".join(self._parts or ())
        if not told:
            return None
        note = f"begun on {', '.join(self.nodes)}"
        resumed = dialect.resume(ask, model, request_id, moment, told, note)
        if resumed is None or continuation_request(dialect.read_conversation(ask), resumed.partial_answer) is None:
            return None
        return resumed
