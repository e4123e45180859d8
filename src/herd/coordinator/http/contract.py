"""The contract between the HTTP server and whoever answers: one request of one client, and its answer. Knows no route.

Everything is synchronous and called on the loop's thread: no task, no await and no object per chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Header = tuple[bytes, bytes]


class UpgradedProtocol(Protocol):
    """Whoever a connection is given to after its last HTTP request: from then on the bytes are theirs."""

    def received(self, data: bytes) -> None: ...

    def writable(self, is_writable: bool) -> None:
        """False when the other end reads too slowly, True when it caught up."""

    def lost(self) -> None:
        """The connection is gone. Called once."""


class ClientTransport(Protocol):
    """What a guest may do with the connection."""

    def send(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Closes it once everything was sent."""


class Exchange(Protocol):
    """A whole request was read (its body is bounded); the answer is written through these calls.

    Either `respond(...)`, or `begin(...)`, any number of `write(...)`, then `end()`; or, when the answer cannot be
    completed, `cut()`. After `end`, `cut` or the client's leaving, further calls do nothing.
    """

    method: str
    path: str
    """Decoded path without the query, e.g. "/api/chat"."""
    query: bytes
    headers: Sequence[Header]
    """As received, names in lower case."""
    body: bytes
    client_ip: str
    received_at: float
    """Loop time at which the request was complete."""

    admission: object | None
    """What the gate decided of this very head; equal requests of one connection share it."""

    on_gone: Callable[[], None] | None
    """Called once when the client leaves before the answer has ended, in whatever state it is."""
    on_writable: Callable[[bool], None] | None
    """Called with False when the client reads too slowly (the buffer is full), with True when it caught up."""

    @property
    def is_encrypted(self) -> bool:
        """Whether it came by https."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""

    def accompany(self, headers: Sequence[Header]) -> None:
        """These headers go with whatever answer is given."""

    def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """A whole answer with Content-Length."""

    def begin(self, status: int, headers: Sequence[Header], length: int | None) -> None:
        """Starts an answer. The head is held back and leaves with the first body byte, in one write.

        `length` is the body's length where it is known, else the body is chunked (HTTP/1.0: until close).
        """

    def write(self, data: bytes) -> None:
        """Body bytes: framed and sent at once."""

    def end(self) -> None:
        """The answer is whole."""

    def switch(self, headers: Sequence[Header], protocol: bytes, guest: UpgradedProtocol) -> ClientTransport:
        """Answers 101 and gives the connection to `guest`, which speaks `protocol`; no HTTP is spoken on it any more."""

    def cut(self, last: bytes = b"") -> None:
        """The answer cannot be completed: `last` (an error frame) is sent, then the connection is closed so that the
        client cannot take the answer for whole (no final chunk)."""
