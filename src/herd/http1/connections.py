"""Counts and limits the client connections of a listener, and holds what they share, such as the current time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple

from herd.errors import Refusal
from herd.http1.contract import Header
from herd.http1.exchange import HttpExchange, render_head
from herd.http1.http_settings import HttpSettings
from herd.http1.places import Connection, Places
from herd.http1.write_batching import WriteBatcher


class ErrorAnswer(NamedTuple):
    """`headers` are those of the API to which the path belongs, such as the request's id."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[Header, ...] = ()


RenderError = Callable[[str | None, Refusal], ErrorAnswer]
"""(path, or None if it is unreadable; refusal) -> the answer."""


class ClientConnections:
    """All connections of one listener, and what they share: the limits, the time of day, and whether it is draining."""

    def __init__(
        self,
        settings: HttpSettings,
        on_request: Callable[[HttpExchange], None],
        render_error: RenderError,
        loop: asyncio.AbstractEventLoop,
        streamed_prefix: str = "",
        places: Places | None = None,
    ) -> None:
        """Bodies of requests below `streamed_prefix` are passed on while they arrive. Listeners may share `places`."""
        self.settings = settings
        self.on_request = on_request
        self.render_error = render_error
        self.streamed_prefix = streamed_prefix
        self.loop = loop
        self.outbox = WriteBatcher(loop)
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.is_closed = False
        """A connection that was accepted before is aborted when the loop reports it."""
        self.on_empty: Callable[[], None] | None = None
        """Called when the last connection has ended while draining."""
        self.uploading_bytes = 0
        self.paused_s = 0.0
        """Time in which this process did not run; it counts against no client."""
        self.now = loop.time()
        self.date_line = _date_line()
        self._places = places if places is not None else Places(settings)

    def time(self) -> float:
        return self.loop.time() - self.paused_s

    def join(self, connection: Connection) -> int:
        """Counts a new connection. Returns by how many the limit is exceeded; 0 or less means that it is not."""
        self.connections.add(connection)
        return self._places.join(connection)

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._places.leave(connection)
        if self.is_draining and not self.connections and self.on_empty is not None:
            self.on_empty()

    @property
    def unsent_bytes(self) -> int:
        """The bytes of answers that clients have not taken yet."""
        self.outbox.flush()
        return sum(connection.unsent_bytes for connection in self.connections)

    def is_streamed(self, path: str) -> bool:
        """Whether the body of a request to this path is passed on while it arrives."""
        return bool(self.streamed_prefix) and path.startswith(self.streamed_prefix)

    def body_max_bytes(self, path: str) -> int:
        return self.settings.streamed_body_max_bytes if self.is_streamed(path) else self.settings.body_max_bytes

    def limit_refusal(self, ip: str) -> Refusal:
        return self._places.refusal(ip)

    def render_refusal(self, path: str | None, refusal: Refusal, is_head: bool) -> bytes:
        """An answer that refuses a request and announces the close of its connection."""
        status, content_type, body, own_headers = self.render_error(path, refusal)
        headers: list[Header] = [(b"Content-Type", content_type.encode("latin-1")), *own_headers]
        if refusal.retry_after_s is not None:
            headers.append((b"Retry-After", b"%d" % max(1, round(refusal.retry_after_s))))
        if refusal.allow is not None:
            headers.append((b"Allow", refusal.allow.encode("latin-1")))
        own = self.date_line + b"Content-Length: %d\r\nConnection: close\r\n" % len(body)
        return render_head(status, headers, own) + (b"" if is_head else body)

    def sweep(self, now: float) -> None:
        """Enforces every time limit. Called about once a second with `time()`."""
        self.now = now
        self.date_line = _date_line()
        for connection in list(self.connections):
            connection.sweep(now)

    def drain(self) -> None:
        """Accepts no more requests. Answers in progress continue, and their connections close at their end."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.close_if_idle()


def _date_line() -> bytes:
    return b"Date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
