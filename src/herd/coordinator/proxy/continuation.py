"""Records what a client has received of a stream, so that another node can continue it if its node fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from herd.core.state.commands import Dispatch
from herd.core.state.request import Counters, RequestId
from herd.dialects import Dialect, Resumption, Timestamp
from herd.engines import Engine, EngineRequest
from herd.protocols.conversation import Conversation, ParsedRequest
from herd.protocols.resumption import continuation_request, raw_continuation_request

_DELTA_FIELD: Final = b'"delta":'
RECORDED_MAX_BYTES: Final = 1 << 20
"""A longer answer cannot be continued: that would need a copy of all of it in memory."""


class Continuation:
    """The bytes that were forwarded to one client, and the nodes that sent them."""

    __slots__ = ("_dialect", "_parsed", "_parts", "_request_id", "_size_bytes", "nodes", "resumption")

    def __init__(self, dialect: Dialect, parsed: ParsedRequest, request_id: RequestId) -> None:
        self._dialect = dialect
        self._parsed = parsed
        self._request_id = request_id
        self._parts: list[bytes] | None = []
        self._size_bytes = 0
        self.nodes: list[str] = []
        self.resumption: Resumption | None = None
        """Set by `prepare` if another node can continue the answer."""

    def record(self, data: bytes) -> None:
        """Called with every chunk that is forwarded."""
        if self._parts is None:
            return
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._size_bytes > RECORDED_MAX_BYTES:
            self._parts = None

    def counters(self, timestamp: Timestamp) -> Counters | None:
        """How many tokens of a cancelled answer were forwarded; engines send one token per piece.

        None if the answer was too long to be recorded. In a format that cannot be resumed, events with a delta count.
        """
        if self._parts is None:
            return None
        forwarded = b"".join(self._parts)
        resumption = self._dialect.resume(self._parsed, self._parsed.model, self._request_id, timestamp, forwarded, "")
        pieces = resumption.partial_answer.chunks if resumption is not None else forwarded.count(_DELTA_FIELD)
        return Counters(completion_tokens=pieces)

    def prepare(self, model: str, timestamp: Timestamp, engines: Mapping[str, Engine]) -> frozenset[str]:
        """Prepares the continuation on another node. Returns the kinds of engines that can continue this answer.

        Empty if the continuation might not fit what the client has received.
        """
        self.resumption = self._resume(model, timestamp)
        if self.resumption is None:
            return frozenset()
        is_empty = self.resumption.partial_answer.is_empty
        return frozenset(
            kind for kind, engine in engines.items() if is_empty or engine.can_continue or engine.can_render
        )

    def _resume(self, model: str, timestamp: Timestamp) -> Resumption | None:
        forwarded = b"".join(self._parts or ())
        if not forwarded:
            return None
        note = f"started on {', '.join(self.nodes)}"
        resumption = self._dialect.resume(self._parsed, model, self._request_id, timestamp, forwarded, note)
        if resumption is None:
            return None
        conversation = self._dialect.read_conversation(self._parsed)
        return resumption if continuation_request(conversation, resumption.partial_answer) is not None else None

    def next_request(self, command: Dispatch, engine: Engine) -> Conversation | EngineRequest | None:
        """The conversation that makes this engine continue the answer; None if it cannot.

        An engine that would begin a new turn needs a raw prompt. Then the result is the request that renders its
        template, and `raw_conversation` takes the rendered text.
        """
        assert self.resumption is not None
        conversation, partial = self._conversation(command), self.resumption.partial_answer
        if engine.can_continue or partial.is_empty:
            return continuation_request(conversation, partial)
        if raw_continuation_request(conversation, partial, "", command.model_info.capabilities) is None:
            return None
        return engine.render_request(conversation)

    def raw_conversation(self, command: Dispatch, rendered: str) -> Conversation | None:
        assert self.resumption is not None
        capabilities = command.model_info.capabilities
        return raw_continuation_request(
            self._conversation(command), self.resumption.partial_answer, rendered, capabilities
        )

    def _conversation(self, command: Dispatch) -> Conversation:
        conversation = self._dialect.read_conversation(self._parsed)
        conversation.model = command.model_info.name
        return conversation


def line_break(before: bytes, frame: bytes) -> bytes:
    """The line breaks that must separate `frame` from `before`, which may end in the middle of a line or event."""
    wanted = b"\n\n" if frame.startswith((b"data:", b"event:")) else b"\n"
    if before.endswith(wanted):
        return b""
    return b"\n" if before.endswith(b"\n") else wanted
