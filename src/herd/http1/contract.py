"""Defines the interface between the HTTP server and the code that answers: one request and its answer.

All calls are synchronous and on the loop's thread: no task, no await and no object per chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from herd.http1.streamed_body import StreamedBody

Header = tuple[bytes, bytes]


class UpgradedProtocol(Protocol):
    """Takes over a connection after its last HTTP request, and receives all further bytes."""

    def received(self, data: bytes) -> None: ...

    def writable(self, is_writable: bool) -> None:
        """False when the client reads too slowly, True when it has caught up."""

    def lost(self) -> None:
        """The connection was closed or lost. Called once."""


class ClientTransport(Protocol):
    """The calls that an upgraded protocol may make on its connection."""

    def send(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Closes the connection after all bytes were sent."""


class Exchange(Protocol):
    """One complete request (its body has a limit), and the calls that write its answer.

    Call `respond(...)`; or `begin(...)`, `write(...)` any number of times, and `end()`; or `cut()` if the answer cannot
    be completed. After `end`, `cut` or a disconnect of the client, further calls do nothing.
    """

    method: str
    path: str
    """The decoded path without the query, e.g. "/api/chat"."""
    query: bytes
    headers: Sequence[Header]
    """As received, with names in lower case."""
    body: bytes
    upload: StreamedBody | None
    """The body of a large upload, which is still being received; then `body` is empty."""
    client_ip: str
    received_at: float
    """Loop time at which the request was complete."""

    admission: object | None
    """The decision of access control on this head; equal requests of one connection share it."""
    facts: object | None
    """What was read from the headers of this head; equal requests of one connection share it."""

    on_disconnect: Callable[[], None] | None
    """Called once if the client disconnects before the answer has ended."""
    on_writable: Callable[[bool], None] | None
    """Called with False when the client reads too slowly (the buffer is full), with True when it has caught up."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""

    def add_headers(self, headers: Sequence[Header]) -> None:
        """Adds headers to the answer, whichever it will be. They replace those of an earlier call."""

    def correct_path(self, path: str) -> None:
        """Serves this request, and equal ones of the connection, as if the client had sent this path."""

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Sends a complete answer with Content-Length."""

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> None:
        """Starts an answer. The head is sent together with the first body bytes, in one write.

        `length` is the body's length if it is known. Otherwise the body is chunked (HTTP/1.0: ended by close).
        """

    def write(self, data: bytes) -> None:
        """Frames and sends body bytes at once."""

    def end(self) -> None:
        """Completes the answer."""

    def switch(self, headers: Sequence[Header], protocol: bytes, upgraded: UpgradedProtocol) -> ClientTransport:
        """Answers 101 and passes the connection to `upgraded`, which implements `protocol`."""

    def cut(self, last: bytes = b"") -> None:
        """Ends an answer that cannot be completed: sends `last` (an error frame) and closes the connection.

        There is no final chunk, so the client cannot mistake the answer for a complete one.
        """
