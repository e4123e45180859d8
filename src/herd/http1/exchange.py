"""Frames and sends the answer to one request (Content-Length, chunked, or until close)."""

from __future__ import annotations

import http
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from herd.http1.contract import ClientTransport, Header, UpgradedProtocol
from herd.http1.header_lines import joined_lines
from herd.http1.request_head import RequestHead
from herd.http1.streamed_body import StreamedBody

STATUS_LINES: Final = MappingProxyType(
    {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}
)

# Written by this file alone: values from a node or a route could contradict the bytes that are sent.
_OURS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_CRLF: Final = b"\r\n"

_FRESH: Final = 0
_BY_LENGTH: Final = 1
_BY_CHUNKS: Final = 2
_BY_CLOSE: Final = 3
_NO_BODY: Final = 4
_ENDED: Final = 5


class ConnectionHandle(Protocol):
    """The calls that an exchange makes on its connection."""

    is_encrypted: bool

    @property
    def date_line(self) -> bytes: ...

    def stays_open(self, head: RequestHead) -> bool:
        """Whether the connection can serve another request after this one."""

    def send(self, data: bytes) -> None: ...

    def upgrade(self, upgraded: UpgradedProtocol) -> ClientTransport:
        """Passes the connection to another protocol."""

    def answered(self, stays_open: bool) -> None:
        """The answer is complete."""

    def end_with_reset(self, is_on: bool) -> None:
        """Whether the system resets the connection when it is closed, also if this process is killed."""

    def cut(self, with_reset: bool) -> None:
        """The answer is incomplete and the client must notice; `with_reset` if a normal close would look complete."""


class HttpExchange:
    """Implements `Exchange` (contract.py) on one HTTP/1.x connection."""

    __slots__ = (
        "_connection",
        "_extra_headers",
        "_framing",
        "_head",
        "_held",
        "_is_probed",
        "_left",
        "_stays_open",
        "body",
        "client_ip",
        "headers",
        "method",
        "on_disconnect",
        "on_writable",
        "path",
        "query",
        "received_at",
        "upload",
    )

    def __init__(
        self, connection: ConnectionHandle, head: RequestHead, body: bytes, client_ip: str, received_at: float
    ) -> None:
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.headers: Sequence[Header] = head.headers
        self.body = body
        self.upload: StreamedBody | None = None
        self.client_ip = client_ip
        self.received_at = received_at
        self.on_disconnect: Callable[[], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        self._connection = connection
        self._head = head
        self._extra_headers: Sequence[Header] = ()
        self._framing = _FRESH
        self._held = b""
        self._left = 0
        self._is_probed = False
        self._stays_open = True

    @property
    def is_encrypted(self) -> bool:
        return self._connection.is_encrypted

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None

    @property
    def admission(self) -> object | None:
        return self._head.admission

    @admission.setter
    def admission(self, admission: object | None) -> None:
        self._head.admission = admission

    @property
    def facts(self) -> object | None:
        return self._head.facts

    @facts.setter
    def facts(self, facts: object | None) -> None:
        self._head.facts = facts

    def add_headers(self, headers: Sequence[Header]) -> None:
        self._extra_headers = (*self._extra_headers, *headers) if self._extra_headers else headers

    def correct_path(self, path: str) -> None:
        self.path = self._head.path = path

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        if self._framing != _FRESH:
            return
        stays_open = self._connection.stays_open(self._head)
        if status == 204 or status == 304 or status < 200:
            framing = body = b""
        else:
            framing = b"Content-Length: %d\r\n" % len(body)
            if self.method == "HEAD":
                body = b""
        self._close()
        self._connection.send(self._render(status, headers, framing, stays_open) + body)
        self._connection.answered(stays_open)

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> None:
        if self._framing != _FRESH:
            return
        self._stays_open = self._connection.stays_open(self._head)
        framing = b""
        if status == 204 or status == 304:
            self._framing = _NO_BODY
        elif length is not None:
            self._framing = _BY_LENGTH
            self._left = length
            framing = b"Content-Length: %d\r\n" % length
        elif self._head.is_http10:
            self._framing = _BY_CLOSE
            self._stays_open = False
        else:
            self._framing = _BY_CHUNKS
            framing = b"Transfer-Encoding: chunked\r\n"
        if self.method == "HEAD":
            self._framing = _NO_BODY
        self._held = self._render(status, headers, framing, self._stays_open)

    def write(self, data: bytes) -> None:
        framing = self._framing
        if not data or framing >= _NO_BODY:
            return
        assert framing != _FRESH, "write() before begin()"
        if framing == _BY_CHUNKS:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif framing == _BY_LENGTH:
            if len(data) > self._left:
                # Bytes beyond Content-Length would be parsed as the next answer. Only this answer may be lost.
                self.cut()
                return
            self._left -= len(data)
        if self._held:
            data = self._held + data
            self._held = b""
        self._connection.send(data)

    def end(self) -> None:
        framing = self._framing
        if framing == _ENDED:
            return
        assert framing != _FRESH, "end() before begin()"
        if self._left and framing == _BY_LENGTH:
            self.cut()
            return
        last = self._held
        if framing == _BY_CHUNKS:
            last += b"0\r\n\r\n"
        self._close()
        if last:
            self._connection.send(last)
        if self._is_probed:
            self._connection.end_with_reset(False)
        self._connection.answered(self._stays_open)

    def switch(self, headers: Sequence[Header], protocol: bytes, upgraded: UpgradedProtocol) -> ClientTransport:
        assert self._framing == _FRESH, "switch() after the answer has begun"
        own = b"Upgrade: %b\r\nConnection: Upgrade\r\n" % protocol
        self._close()
        self._connection.send(render_head(101, (*headers, *self._extra_headers), self._connection.date_line + own))
        return self._connection.upgrade(upgraded)

    def cut(self, last: bytes = b"") -> None:
        framing = self._framing
        if framing == _ENDED:
            return
        # The error frame must not fill up an announced length: the answer would look complete.
        if last and framing != _FRESH and (framing != _BY_LENGTH or len(last) < self._left):
            self.write(last)
        self._close()
        # After a probe the zero alone would look like the last chunk to a lenient client.
        self._connection.cut(framing == _BY_CLOSE or (framing == _BY_CHUNKS and self._is_probed))

    def probe(self) -> None:
        """Sends bytes that do not change the answer, if there are any for this part of it; they show a client's end.

        Before the answer: an interim response, which every client of HTTP/1.1 skips (RFC 9110 15.2). Between chunks: a
        leading zero of the next chunk's size.
        """
        framing = self._framing
        if framing == _FRESH or self._held:
            if not self._head.is_http10:
                self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif framing == _BY_CHUNKS:
            self._is_probed = True
            self._connection.end_with_reset(True)
            self._connection.send(b"0")

    @property
    def has_begun(self) -> bool:
        """Whether bytes of the answer were sent."""
        return self._framing != _FRESH and not self._held

    def client_left(self) -> None:
        """The client has disconnected: calls `on_disconnect` once; nothing more is sent."""
        if self._framing == _ENDED:
            return
        on_disconnect = self.on_disconnect
        self._close()
        if on_disconnect is not None:
            on_disconnect()

    def _close(self) -> None:
        """Ignores further calls. Releases the callbacks, which refer to this exchange: this avoids reference cycles."""
        self._framing = _ENDED
        self._held = b""
        self.on_disconnect = None
        self.on_writable = None

    def _render(self, status: int, headers: Sequence[Header], framing: bytes, stays_open: bool) -> bytes:
        if not stays_open:
            framing += b"Connection: close\r\n"
        elif self._head.is_http10:
            framing += b"Connection: keep-alive\r\n"
        if self._extra_headers:
            headers = (*headers, *self._extra_headers)
        return render_head(status, headers, self._connection.date_line + framing)


def render_head(status: int, headers: Sequence[Header], own_lines: bytes) -> bytes:
    """A complete response head with its empty line. `own_lines` are the connection's own headers, each with its CRLF.

    A header whose name or value contains CR, LF or NUL is dropped: it could inject another header or answer.
    """
    status_line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return (
        status_line + joined_lines([header for header in headers if header[0].lower() not in _OURS]) + own_lines + _CRLF
    )
