"""Writes the answer of one request to its client, whichever nodes it comes from.

    nothing ──comment of a wait──> HEAD ──first bytes──> BEGUN ──finish, refuse──> released
       └──first bytes, whole answer or refusal─────────────┘

Before the first bytes another node can still answer instead; afterwards another node can only continue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from herd.coordinator.proxy.continuation import Continuation, Ending, line_break
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.wait_comments import WaitNotice, is_event_stream
from herd.coordinator.upstream import forwarded_headers
from herd.core.state.commands import Dispatch, Hold
from herd.core.state.request import Counters, RequestId
from herd.dialects import Dialect
from herd.errors import Refusal
from herd.http1.contract import Exchange, Header
from herd.protocols.conversation import ParsedRequest


class ClientAnswer:
    """The client's exchange, and what was written to it."""

    __slots__ = (
        *("_dependencies", "_dialect", "_last_forwarded", "_parsed", "_request_id", "_wait"),
        *("continuation", "exchange", "forwarded_bytes"),
    )

    def __init__(
        self,
        exchange: Exchange,
        parsed: ParsedRequest,
        dialect: Dialect,
        request_id: RequestId,
        dependencies: RelayDependencies,
        wait: WaitNotice | None,
    ) -> None:
        self.exchange = exchange
        self._parsed = parsed
        self._dialect = dialect
        self._request_id = request_id
        self._dependencies = dependencies
        self._wait = wait
        self._last_forwarded = b""
        self.forwarded_bytes = 0
        """Bytes of the answer's body, without the comments of a wait."""
        is_continuable = parsed.stream and dependencies.settings.continuation == "auto"
        self.continuation = Continuation(dialect, parsed, request_id) if is_continuable else None

    # --- waiting ---

    def hold(self, command: Hold) -> None:
        takes_comments = not self.forwarded_bytes and is_event_stream(self._dialect, self._parsed)
        self._wait = self._dependencies.wait_comments.hold(self._wait, command, self.exchange, takes_comments)

    def end_wait(self) -> None:
        if self._wait is not None:
            self._dependencies.wait_comments.end(self._wait)

    @property
    def wait_headers(self) -> list[Header]:
        return self._wait.headers() if self._wait is not None else []

    @property
    def has_sent_head(self) -> bool:
        """Whether a comment of the wait has sent the answer's head, so that everything else must follow in its body."""
        return self._wait is not None and self._wait.has_sent_head

    # --- the answer ---

    def open(self, status: int, headers: list[Header], length: int | None, on_writable: Callable[[bool], None]) -> None:
        """Begins the answer. The head is sent with the first bytes that `forward` gets."""
        self.exchange.on_writable = on_writable
        if self._wait is not None and self._wait.has_sent_head:
            self._wait.write_headers(headers)
        else:
            self.exchange.begin(status, headers, length)

    def separated(self, data: bytes) -> bytes:
        """`data` after the line break that separates it from what another node has sent."""
        return line_break(self._last_forwarded, data) + data

    def completed(self, rest: bytes) -> bytes:
        """`rest` with the line breaks that its last line lacks: without them clients wait for the end of an event."""
        following = b"data:" if is_event_stream(self._dialect, self._parsed) else b"{"
        return rest + line_break(self._last_forwarded + rest, following)

    def complete_event(self) -> None:
        """Ends an event of which the client has all lines: it reads the event then, so it counts as received."""
        last = self._last_forwarded
        if last and (missing := self.completed(b"")):
            self.forward(missing)
            self._last_forwarded = last + missing

    def begin_node(self, command: Dispatch, lost_fields: Collection[str]) -> None:
        """Called before the first bytes of each node. `lost_fields` of the client were not sent to it."""
        if self.continuation is not None:
            self.continuation.begin(command, lost_fields)

    def forward(self, data: bytes) -> None:
        self.forwarded_bytes += len(data)
        self._last_forwarded = data
        if self.continuation is not None:
            self.continuation.record(data)
        self.exchange.write(data)

    def finish(self, rest: bytes) -> None:
        """Writes the last bytes and completes the answer."""
        if rest:
            self.exchange.write(rest)
        self.exchange.end()

    def respond(self, status: int, headers: list[Header], body: bytes) -> None:
        """Sends a complete answer of which nothing was forwarded before."""
        if self.has_sent_head:
            self.finish(body)
        else:
            self.exchange.respond(status, headers, body)

    def refuse(self, refusal: Refusal) -> None:
        """Sends the refusal as an answer. If an answer has begun, ends it so that the client sees it is incomplete."""
        if self.forwarded_bytes or self.has_sent_head:
            frame = self._dialect.error_frame(self._parsed, refusal)
            self.exchange.cut(self.separated(frame) if frame else b"")
            return
        answer = self._dialect.error(refusal, self._request_id)
        headers = forwarded_headers.refusal_headers(
            answer.content_type, refusal, self._request_id, self._dependencies.rng.random()
        )
        self.exchange.respond(answer.status, headers + self.wait_headers, answer.body)

    def release(self) -> None:
        """Releases the exchange, so that neither object keeps the other alive."""
        self.end_wait()
        self.exchange.on_disconnect = None
        self.exchange.on_writable = None

    # --- what another node can continue ---

    def continuation_kinds(self, may_repeat: bool = False) -> frozenset[str]:
        """The kinds of engines that can continue what was forwarded; with `may_repeat`, or might give it again."""
        if self.continuation is None or not self.forwarded_bytes:
            return frozenset()
        return self.continuation.kinds(self._dependencies.engines, may_repeat)

    def ending(self) -> Ending | None:
        """What completes a stream of which only the end is missing."""
        if self.continuation is None or not self.forwarded_bytes:
            return None
        return self.continuation.ending(self._dependencies.timestamp())

    def repeated_end(self) -> tuple[bytes, Counters] | None:
        """What completes a stream that its engine stopped because it repeated itself, and its counters."""
        if self.continuation is None or not self.forwarded_bytes:
            return None
        found = self.continuation.repeated_end(self._dependencies.timestamp())
        return None if found is None else (self.separated(found[0]), found[1])

    def forwarded_tokens(self) -> Counters | None:
        return self.continuation.counters() if self.continuation is not None and self.forwarded_bytes else None
