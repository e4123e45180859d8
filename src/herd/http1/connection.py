"""Reads requests from one client connection and passes them on one at a time.

    IDLE ──bytes──> HEAD ──empty line──> BODY ──complete──> BUSY ──answered──> IDLE
    BUSY ──upgraded──> UPGRADED: the bytes belong to another protocol, such as WebSocket
    HEAD ──head of a large upload──> UPLOADING ──complete──> BUSY: the answer may begin before the body is complete
    any ──refused, cut──> LINGERING ──client closed or timeout──> closed

A request that arrives in one read goes from IDLE to BUSY at once. While a request is answered, reading continues, so
that a disconnect is noticed; pipelined requests are buffered up to a limit. There is no timer per request or per
connection: `sweep` checks each connection once a second.

A client that closes its sending direction after its last request is answered (half_close.py).
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from herd.errors import HeadersTooLarge, HerdError, Refusal, TooLarge
from herd.http1.buffered_body import TOO_MANY_UPLOADS, TOO_SLOW, BufferedBody
from herd.http1.connections import ClientConnections
from herd.http1.contract import ClientTransport, UpgradedProtocol
from herd.http1.exchange import HttpExchange
from herd.http1.half_close import HALF_CLOSED_TOO_LONG, HalfClose
from herd.http1.places import NEW_S, Activity
from herd.http1.request_head import CHUNKED, RequestHead, can_never_complete, path_hint, read_head
from herd.http1.slow_reader import ReaderProgress
from herd.http1.streamed_body import StreamedBody
from herd.http1.tcp.options import reset_on_close
from herd.http1.tcp.state import has_closed, peer_ip

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_BUSY: Final = 3
_LINGERING: Final = 4
_UPGRADED: Final = 5
_UPLOADING: Final = 6

_REQUESTS_PER_TURN: Final = 32
# At most this many refused connections get an answer with the reason. Further ones are only closed: otherwise the
# answers themselves could exhaust this process.
_REFUSED_MAX: Final = 32


class HttpConnection(asyncio.Protocol):
    """Every method runs on the loop's thread. `sweep` and the calls that write answers never raise."""

    __slots__ = (
        *("_body", "_clients", "_exchange", "_half_close", "_has_eof", "_head", "_head_bytes", "_is_pumping"),
        *("_is_read_paused", "_is_used", "_is_write_paused", "_phase", "_progress", "_received", "_scanned", "_sent"),
        *("_since", "_tail", "_transport", "_upgraded", "client_ip", "is_encrypted"),
    )

    def __init__(self, clients: ClientConnections) -> None:
        self._clients = clients
        self._phase = _IDLE
        self._since = clients.time()
        self._tail = bytearray()
        self._scanned = 0
        self._head_bytes = b"\0"
        self._head: RequestHead | None = None
        self._body: BufferedBody | StreamedBody | None = None
        self._received = 0
        self._exchange: HttpExchange | None = None
        self._upgraded: UpgradedProtocol | None = None
        self._half_close: HalfClose | None = None
        self._has_eof = False
        self._sent = 0
        self._progress = ReaderProgress(self._since)
        self._is_used = False
        self._is_pumping = False
        self._is_read_paused = False
        self._is_write_paused = False
        self.client_ip = ""
        self.is_encrypted = False

    # --- called by the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = self._clients.settings
        self._transport.set_write_buffer_limits(high=settings.write_buffer_bytes, low=settings.write_buffer_bytes // 4)
        self.client_ip = peer_ip(transport.get_extra_info("peername"))
        self.is_encrypted = transport.get_extra_info("sslcontext") is not None
        excess = self._clients.join(self)
        if excess > _REFUSED_MAX or self._clients.is_closed:
            self._phase = _LINGERING
            self._transport.abort()
        elif excess > 0:
            self._refuse(None, self._clients.limit_refusal(self.client_ip))

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == _IDLE and not self._tail and not self._is_write_paused:
            head = self._head
            # Most requests of a connection have the same head as the one before: it is not parsed again.
            if data.startswith(self._head_bytes) and head is not None:
                start = len(self._head_bytes)
                if len(data) == start + head.length:
                    self._start(head, data[start:])
                    return
            used = self._read_request(data)
            if used == len(data):
                return
            self._buffer(data[used:])
            if used:
                self._pump()
        elif phase == _BODY:
            rest = self._read_body(data)
            if rest:
                self._buffer(rest)
                self._pump()
        elif phase == _UPLOADING:
            self._buffer(self._read_upload(data))
        else:
            self._buffer(data)
            if phase != _BUSY and phase != _UPGRADED:
                self._pump()

    def eof_received(self) -> bool:
        # asyncio closes a TLS connection at its end in any case. An incomplete upload can never be answered.
        if self._exchange is not None and (self.is_encrypted or self._phase == _UPLOADING):
            self._give_up()
            self._transport.abort()
        self._clients.outbox.flush()
        self._has_eof = self._phase == _BUSY or self._has_waiting_requests()
        if self._has_eof:
            self._watch_half_close()
        return self._has_eof

    def _has_waiting_requests(self) -> bool:
        """Whether there are buffered bytes that `_pump` has not looked at."""
        return bool(self._tail) and (self._phase == _IDLE or (self._phase == _HEAD and self._is_write_paused))

    def _watch_half_close(self) -> None:
        if self._half_close is not None:
            return
        clients = self._clients
        self._half_close = HalfClose(self._transport, clients.loop, clients.time(), self._sent)
        if self._exchange is not None:
            self._half_close.probe(self._exchange)
            clients.outbox.flush()
        self._half_close.check()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._clients.leave(self)
        self._end_upgraded()
        self._give_up()
        self._forget_upload()

    def pause_writing(self) -> None:
        self._is_write_paused = True
        if self._exchange is not None and self._exchange.on_writable is not None:
            self._exchange.on_writable(False)
        elif self._upgraded is not None:
            self._upgraded.writable(False)

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._exchange is not None:
            if self._exchange.on_writable is not None:
                self._exchange.on_writable(True)
        elif self._upgraded is not None:
            self._upgraded.writable(True)
        elif self._tail:
            self._pump()

    # --- called by its exchange ---

    @property
    def date_line(self) -> bytes:
        return self._clients.date_line

    def stays_open(self, head: RequestHead) -> bool:
        is_last = self._clients.is_draining or self._phase == _UPLOADING or (self._has_eof and not self._tail)
        return head.keeps_alive and not is_last

    def send(self, data: bytes) -> None:
        self._sent += len(data)
        self._clients.outbox.send(self._transport, data)

    def answered(self, stays_open: bool) -> None:
        self._exchange = None
        if self._phase == _UPLOADING:
            self._linger()
            return
        if not stays_open or self._clients.is_draining or (self._has_eof and not self._tail):
            self._finish()
            return
        self._phase = _IDLE
        self._since = self._clients.now
        if self._tail and not self._is_pumping:
            self._pump()

    def upgrade(self, upgraded: UpgradedProtocol) -> ClientTransport:
        self._exchange = None
        self._upgraded = upgraded
        self._phase = _UPGRADED
        return self

    def finish(self) -> None:
        """The upgraded protocol has ended: the connection closes after all bytes were sent."""
        self._upgraded = None
        self._linger()

    def _end_upgraded(self) -> None:
        upgraded, self._upgraded = self._upgraded, None
        if upgraded is not None:
            upgraded.lost()

    def cut(self, with_reset: bool) -> None:
        self._exchange = None
        if with_reset:
            self._phase = _LINGERING
            self._clients.outbox.flush()
            self.end_with_reset(True)
            self._transport.abort()
        else:
            self._linger()

    def end_with_reset(self, is_on: bool) -> None:
        if not self._transport.is_closing():
            reset_on_close(self._transport.get_extra_info("socket"), is_on)

    # --- reading requests ---

    def _buffer(self, data: bytes) -> None:
        """Buffers bytes for later; above the limit, reading from the client is paused."""
        if self._phase == _LINGERING:
            return
        if self._upgraded is not None:
            self._upgraded.received(data)
            return
        self._tail += data
        is_full = len(self._tail) > self._clients.settings.pipeline_max_bytes
        if self._phase == _HEAD or self._is_read_paused or not is_full:
            return
        self._is_read_paused = True
        self._transport.pause_reading()

    def _pump(self) -> None:
        """Starts the buffered requests one after the other, while each of them is answered at once."""
        if self._is_pumping:
            return
        self._is_pumping = True
        turns = 0
        while self._phase <= _HEAD and self._tail and not self._is_write_paused:
            if turns == _REQUESTS_PER_TURN:
                self._clients.loop.call_soon(self._pump)
                break
            turns += 1
            used = self._read_request(self._tail)
            if not used:
                break
            del self._tail[:used]
        self._is_pumping = False
        if self._has_eof:
            self._end_after_eof()
        if self._upgraded is not None and self._tail:
            rest = bytes(self._tail)
            self._tail.clear()
            self._upgraded.received(rest)
        if self._is_read_paused and len(self._tail) <= self._clients.settings.pipeline_max_bytes:
            self._is_read_paused = False
            self._transport.resume_reading()

    def _end_after_eof(self) -> None:
        """Closes a half-closed connection that has no complete request left."""
        if self._phase == _UPLOADING:
            self._give_up()
            self._transport.abort()
        elif self._phase <= _BODY and not self._has_waiting_requests():
            self._tail.clear()
            self._finish()

    def _read_request(self, data: bytes | bytearray) -> int:
        """Reads one request from the start of `data`. Returns the bytes used: 0 for an incomplete or refused head."""
        # RFC 9112 2.2: one empty line before a request is ignored; some old clients end a body with it.
        skip = 2 if data.startswith(b"\r\n") else 0
        end = data.find(b"\r\n\r\n", max(skip, self._scanned - 3)) + 4
        max_bytes = self._clients.settings.header_max_bytes
        if end < 4:
            self._await_head(data, skip, max_bytes)
            return 0
        raw = bytes(data[skip:end])
        self._scanned = 0
        try:
            if len(raw) > max_bytes:
                raise HeadersTooLarge(f"the request head is over {max_bytes} bytes")
            head = read_head(raw)
            body_max_bytes = self._clients.body_max_bytes(head.path)
            if head.length > body_max_bytes:
                raise TooLarge(f"the request body is over {body_max_bytes} bytes")
        except HerdError as error:
            self._refuse(path_hint(raw), error.refusal, is_head=raw.startswith(b"HEAD "))
            return 0
        self._head = head
        self._head_bytes = raw
        stop = end + head.length
        if end <= stop <= len(data):
            self._start(head, bytes(data[end:stop]))
            return stop
        return len(data) - len(self._open_body(head, bytes(data[end:])))

    def _await_head(self, data: bytes | bytearray, skip: int, max_bytes: int) -> None:
        if self._phase == _IDLE:
            self._phase = _HEAD
            self._since = self._clients.time()
        if len(data) - skip > max_bytes:
            self._refuse(None, HeadersTooLarge(f"the request head is over {max_bytes} bytes").refusal)
        elif can_never_complete(data, skip, self._scanned):
            self._refuse(path_hint(bytes(data)), Refusal(400, "malformed_request", "malformed request head"))
        else:
            self._scanned = len(data)

    def _open_body(self, head: RequestHead, data: bytes) -> bytes:
        if head.expects_continue and not data:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._clients.is_streamed(head.path):
            return self._open_upload(head, data)
        self._phase = _BODY
        self._body = BufferedBody(head.length, self._clients.settings.body_max_bytes, self._clients.time())
        return self._read_body(data)

    def _open_upload(self, head: RequestHead, data: bytes) -> bytes:
        """Starts the request before its body is complete; the code that answers takes the body as it arrives."""
        length = None if head.length == CHUNKED else head.length
        body = StreamedBody(length, self._clients.body_max_bytes(head.path), self._pause_upload)
        self._start(head, b"", body)
        return self._read_upload(data) if self._phase == _UPLOADING else b""

    def _read_upload(self, data: bytes) -> bytes:
        assert isinstance(self._body, StreamedBody)
        try:
            rest = self._body.feed(data)
        except HerdError as error:
            # The exchange answers: it gets the reason in place of the next bytes.
            self._body.lose(str(error))
            return b""
        if self._body.is_complete:
            self._body = None
            self._phase = _BUSY
        return rest

    def _pause_upload(self, is_paused: bool) -> None:
        if is_paused is self._is_read_paused or self._transport.is_closing():
            return
        self._is_read_paused = is_paused
        if is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _read_body(self, data: bytes) -> bytes:
        """Adds to the body and starts the request when it is complete. Returns the bytes after the body."""
        head, body = self._head, self._body
        assert head is not None and isinstance(body, BufferedBody)
        self._received += len(data)
        self._clients.uploading_bytes += len(data)
        if self._clients.uploading_bytes > self._clients.settings.uploads_max_bytes:
            self._refuse(head.path, TOO_MANY_UPLOADS, is_head=head.method == "HEAD")
            return b""
        try:
            rest = body.feed(data)
        except HerdError as error:
            self._refuse(head.path, error.refusal, is_head=head.method == "HEAD")
            return b""
        if rest is None:
            return b""
        self._start(head, body.content)
        return rest

    def _start(self, head: RequestHead, body: bytes, upload: StreamedBody | None = None) -> None:
        clients = self._clients
        if self._received:
            self._forget_upload()
        if clients.is_draining:
            refusal = Refusal(503, "shutting_down", "the coordinator is shutting down", retry_after_s=2.0)
            self._refuse(head.path, refusal, is_head=head.method == "HEAD")
            return
        self._phase = _BUSY if upload is None else _UPLOADING
        self._is_used = True
        exchange = HttpExchange(self, head, body, self.client_ip, clients.loop.time())
        if upload is not None:
            self._body = exchange.upload = upload
        self._exchange = exchange
        clients.on_request(exchange)

    def _forget_upload(self) -> None:
        self._clients.uploading_bytes -= self._received
        self._received = 0
        self._body = None

    # --- ending ---

    def _refuse(self, path: str | None, refusal: Refusal, is_head: bool = False) -> None:
        """Sends a refusal and closes: after a refused head the start of the next request is unknown."""
        self.send(self._clients.render_refusal(path, refusal, is_head))
        self._linger()

    def _finish(self) -> None:
        if self._tail:
            self._linger()
        else:
            self._phase = _LINGERING
            self._since = self._clients.time()
            self._clients.outbox.flush()
            self._transport.close()

    def _linger(self) -> None:
        """Closes our direction and reads until the client closes.

        Closing with unread bytes would reset the connection and could lose the answer (RFC 9112 9.6).
        """
        self._phase = _LINGERING
        self._since = self._clients.time()
        self._tail.clear()
        self._forget_upload()
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()
        self._clients.outbox.flush()
        if self._has_eof:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write_eof()

    def _give_up(self) -> None:
        self._phase = _LINGERING
        self._tail.clear()
        exchange, body = self._exchange, self._body
        self._exchange = self._body = None
        if isinstance(body, StreamedBody):
            body.lose("the client disconnected before the upload was complete")
        if exchange is not None:
            exchange.client_left()

    def abort(self) -> None:
        self._clients.outbox.flush()
        self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """The bytes of answers that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def activity(self) -> Activity:
        phase = self._phase
        if phase <= _HEAD:
            if phase == _IDLE and self._is_used:
                return Activity.IDLE
            return Activity.NEW if self._clients.now - self._since < NEW_S else Activity.HALF_OPEN
        if phase == _LINGERING:
            is_sent = not self._transport.is_closing() and not self._transport.get_write_buffer_size()
            return Activity.IDLE if is_sent else Activity.WORKING
        return Activity.SENDING if phase == _BODY else Activity.WORKING

    def close_if_idle(self) -> None:
        if self._phase == _IDLE and not self._tail:
            self._finish()

    # --- time limits ---

    def sweep(self, now: float) -> None:
        unsent_bytes = self.unsent_bytes
        if self._progress.is_stuck(now, self._sent, unsent_bytes, self._clients.settings.slow_reader_s):
            self._transport.abort()
        elif self._phase == _IDLE:
            settings = self._clients.settings
            limit_s = settings.idle_timeout_s if self._is_used else settings.header_timeout_s
            if now - self._since > limit_s and not self._tail:
                self._finish()
        elif self._phase == _HEAD:
            if now - self._since > self._clients.settings.header_timeout_s:
                self._refuse(None, Refusal(408, "request_timeout", "the request head was not complete in time"))
        elif self._phase == _BODY or self._phase == _UPLOADING:
            self._check_upload(now)
        elif self._phase == _UPGRADED:
            return
        elif self._phase == _BUSY:
            if self._half_close is not None and self._exchange is not None:
                self._sweep_half_close(self._half_close, self._exchange, now)
            elif self._is_read_paused and has_closed(self._transport.get_extra_info("socket")):
                self._watch_half_close()
        elif now - self._since > self._clients.settings.linger_s and not unsent_bytes:
            self._transport.abort()

    def _sweep_half_close(self, half_close: HalfClose, exchange: HttpExchange, now: float) -> None:
        if not half_close.sweep(now, self._sent, exchange, self._clients.settings.half_close_grace_s):
            return
        has_begun = exchange.has_begun
        self._give_up()
        if has_begun:
            self._transport.abort()
        else:
            self._refuse(exchange.path, HALF_CLOSED_TOO_LONG, is_head=exchange.method == "HEAD")

    def _check_upload(self, now: float) -> None:
        settings, body = self._clients.settings, self._body
        limits = settings.body_grace_s, settings.body_min_bytes_per_s
        if isinstance(body, StreamedBody):
            body.check_speed(now, *limits)
        elif body is not None and body.is_too_slow(now, *limits):
            self._refuse(self._head.path if self._head is not None else None, TOO_SLOW)
