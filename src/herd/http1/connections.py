"""Counts and limits the client connections of a listener, and holds what they share, such as the current time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Protocol

from herd.addresses import is_loopback
from herd.errors import Refusal
from herd.http1.exchange import HttpExchange
from herd.http1.write_batching import WriteBatcher

RenderError = Callable[[str | None, Refusal], tuple[int, str, bytes]]
"""(path, or None if it is unreadable; refusal) -> (status, content type, body)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    body_max_bytes: int = field(
        default=32 << 20,
        metadata={
            "env": "FLEET_MAX_BODY_BYTES",
            "help": "Maximum size of a request body in bytes; a larger one is refused with 413.",
        },
    )
    streamed_body_max_bytes: int = field(
        default=256 << 30,
        metadata={
            "env": "FLEET_MAX_BLOB_BYTES",
            "help": "Maximum size of a model file that a client uploads (POST /api/blobs) in bytes; else 413.",
        },
    )
    header_max_bytes: int = field(
        default=64 << 10,
        metadata={
            "env": "FLEET_MAX_HEADER_BYTES",
            "help": "Maximum size of a request's headers in bytes; larger ones are refused with 431.",
        },
    )
    header_timeout_s: float = field(
        default=10.0,
        metadata={
            "env": "FLEET_HEADER_TIMEOUT",
            "help": "Timeout in seconds for a client to send its request headers.",
        },
    )
    body_min_bytes_per_s: int = field(
        default=1024,
        metadata={
            "env": "FLEET_BODY_MIN_RATE",
            "help": "Minimum upload speed in bytes per second, averaged over FLEET_BODY_GRACE.",
        },
    )
    body_grace_s: float = field(
        default=10.0, metadata={"env": "FLEET_BODY_GRACE", "help": "Seconds over which the upload speed is averaged."}
    )
    uploads_max_bytes: int = field(
        default=512 << 20,
        metadata={
            "env": "FLEET_MAX_UPLOAD_BYTES",
            "help": "Maximum bytes of all request bodies being received; beyond it, uploads get 503.",
        },
    )
    connections_max: int = field(
        default=2000, metadata={"env": "FLEET_MAX_CONNECTIONS", "help": "Maximum number of client connections."}
    )
    connections_per_ip_max: int = field(
        default=100,
        metadata={
            "env": "FLEET_MAX_CONNECTIONS_PER_IP",
            "help": "Maximum number of client connections from one IP address.",
        },
    )
    connections_loopback_max: int = field(
        default=1000,
        metadata={
            "env": "FLEET_MAX_CONNECTIONS_LOOPBACK",
            "help": "Maximum number of client connections from this machine, where a reverse proxy may run.",
        },
    )
    idle_timeout_s: float = field(
        default=75.0,
        metadata={
            "env": "FLEET_KEEPALIVE_TIMEOUT",
            "help": "Seconds an idle client connection stays open between requests.",
        },
    )
    slow_reader_s: float = field(
        default=60.0,
        metadata={
            "env": "FLEET_SLOW_READER_TIMEOUT",
            "help": "Seconds without the client reading its answer before the connection is closed.",
        },
    )
    write_buffer_bytes: int = field(
        default=256 << 10,
        metadata={
            "env": "FLEET_WRITE_BUFFER_BYTES",
            "help": "Unsent bytes per client connection at which reading from the node pauses.",
        },
    )
    pipeline_max_bytes: int = field(
        default=64 << 10,
        metadata={
            "env": "FLEET_MAX_PIPELINE_BYTES",
            "help": "Bytes of pipelined requests to buffer; beyond it, reading from the connection pauses.",
        },
    )
    linger_s: float = field(
        default=5.0,
        metadata={
            "env": "FLEET_LINGER",
            "help": "Seconds to keep a refused client's connection open so that it can read the error.",
        },
    )


class Connection(Protocol):
    """The calls that `ClientConnections` makes on each connection."""

    client_ip: str

    def sweep(self, now: float) -> None:
        """Checks the time limits of the connection's present state."""

    def close_if_idle(self) -> None: ...

    def abort(self) -> None:
        """Closes the connection at once."""


class ClientConnections:
    """All connections of one listener, and what they share: the limits, the time of day, and whether it is draining."""

    def __init__(
        self,
        settings: HttpSettings,
        on_request: Callable[[HttpExchange], None],
        render_error: RenderError,
        loop: asyncio.AbstractEventLoop,
        streamed_prefix: str = "",
    ) -> None:
        """Bodies of requests below `streamed_prefix` are passed on while they arrive."""
        self.settings = settings
        self.on_request = on_request
        self.render_error = render_error
        self.streamed_prefix = streamed_prefix
        self.loop = loop
        self.outbox = WriteBatcher(loop)
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.on_empty: Callable[[], None] | None = None
        """Called when the last connection has ended while draining."""
        self.uploading_bytes = 0
        self.paused_s = 0.0
        """Time in which this process did not run; it counts against no client."""
        self.now = loop.time()
        self.date_line = _date_line()
        self._per_ip: dict[str, int] = {}

    def time(self) -> float:
        return self.loop.time() - self.paused_s

    def join(self, connection: Connection) -> int:
        """Counts a new connection. Returns by how many the limit is exceeded; 0 or less means that it is not."""
        ip = connection.client_ip
        count = self._per_ip.get(ip, 0) + 1
        self._per_ip[ip] = count
        self.connections.add(connection)
        return max(len(self.connections) - self.settings.connections_max, count - self._per_ip_max(ip))

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        left = self._per_ip[connection.client_ip] - 1
        if left:
            self._per_ip[connection.client_ip] = left
        else:
            del self._per_ip[connection.client_ip]
        if self.is_draining and not self.connections and self.on_empty is not None:
            self.on_empty()

    def is_streamed(self, path: str) -> bool:
        """Whether the body of a request to this path is passed on while it arrives."""
        return bool(self.streamed_prefix) and path.startswith(self.streamed_prefix)

    def body_max_bytes(self, path: str) -> int:
        return self.settings.streamed_body_max_bytes if self.is_streamed(path) else self.settings.body_max_bytes

    def limit_refusal(self, ip: str) -> Refusal:
        if self._per_ip[ip] > self._per_ip_max(ip):
            message = f"more than {self._per_ip_max(ip)} connections from {ip}"
            return Refusal(429, "too_many_connections", message, retry_after_s=1.0)
        return Refusal(503, "too_many_connections", "too many connections to the coordinator", retry_after_s=1.0)

    def _per_ip_max(self, ip: str) -> int:
        return self.settings.connections_loopback_max if is_loopback(ip) else self.settings.connections_per_ip_max

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
