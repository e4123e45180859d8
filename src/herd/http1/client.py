"""Sends single HTTP/1.1 requests with a timeout and a size limit, each on its own connection.

The agent uses it for its local engines and the coordinator: a few requests every five seconds need no pool, and a hung
engine blocks only its own request. Requests to nodes use `coordinator/upstream`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from herd.addresses import host_and_port

RESPONSE_MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of head and body. A list of hundreds of models takes less than one megabyte."""
READ_BYTES = 64 * 1024
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Response:
    """`status` 0 means that there was no complete response in time; `problem` says why."""

    status: int
    body: bytes = b""
    problem: str = ""
    headers: dict[str, str] = field(default_factory=dict, compare=False)
    """By lower-case name; of several with the same name, the last."""


class _ResponseParts:
    """Collects the parts of a response from the parser."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.is_framed = False
        """Whether the head defines the end of the body. If not, the body ends with the connection."""
        self.is_complete = False
        self.has_head = False

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self.is_framed = self.is_framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.is_complete = True


async def request(
    method: str, url: str, body: bytes = b"", timeout_s: float = TIMEOUT_S, headers: Mapping[str, str] | None = None
) -> Response:
    """Sends one request and reads the complete response. Errors of the other side are returned, not raised."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(method, url, body, headers or {})
    except TimeoutError:
        return Response(0, problem=f"no answer within {timeout_s:g} s")
    except socket.gaierror:
        return Response(0, problem=f"the host name {urlsplit(url).hostname} cannot be resolved")
    except (OSError, ValueError, httptools.HttpParserError) as error:
        return Response(0, problem=str(error) or type(error).__name__)


async def _exchange(method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Response:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 80)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        )
        if body:
            head += "Content-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(head.encode("ascii") + b"\r\n" + body)
        return await read_response(reader)
    finally:
        # Not `close`: it would wait forever for a peer that does not read.
        writer.transport.abort()


async def read_response(reader: asyncio.StreamReader) -> Response:
    """Reads one complete response. Raises `ValueError`, `OSError` or `HttpParserError`."""
    parts, size_bytes = _ResponseParts(), 0
    parser = httptools.HttpResponseParser(parts)
    while not parts.is_complete:
        data = await reader.read(READ_BYTES)
        if not data:
            break
        size_bytes += len(data)
        if size_bytes > RESPONSE_MAX_BYTES:
            raise ValueError(f"the response is larger than {RESPONSE_MAX_BYTES} bytes")
        parser.feed_data(data)
    status = parser.get_status_code()
    if status < 100 or not parts.has_head:
        raise ValueError("the response is not HTTP")
    if parts.is_framed and not parts.is_complete:
        raise ValueError("the response is incomplete")
    return Response(status, b"".join(parts.parts), headers=parts.headers)


def full_url(host: str, default_port: int = 80) -> str:
    """Converts "0.0.0.0:11434", "http://box:11434/" or "box" to http://host:port; 0.0.0.0 means this machine."""
    url = host if "://" in host else f"http://{host}"
    try:
        parts = urlsplit(url)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return url
    if name in ("", "0.0.0.0", "::", "localhost"):
        name = "127.0.0.1"
    return f"http://{host_and_port(name, port or default_port)}"
