"""Small HTTP/1.1 requests of the agent: to its local engines and to the coordinator. Knows no route; every answer is bounded.

One connection per request: a handful every few seconds does not need a pool, and a hung engine hangs only its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

ANSWER_MAX_BYTES = 16 * 1024 * 1024
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Response:
    """`status` 0 means that nobody answered, or not in time; `problem` says why."""

    status: int
    body: bytes = b""
    problem: str = ""


class _Answer:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size_bytes = 0
        self.is_complete = False

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)
        self.size_bytes += len(data)

    def on_message_complete(self) -> None:
        self.is_complete = True


async def request(
    method: str, url: str, body: bytes = b"", timeout_s: float = TIMEOUT_S, content_type: str = "application/json"
) -> Response:
    """One request, the whole answer. Never raises for what the other side does."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(method, url, body, content_type)
    except TimeoutError:
        return Response(0, problem=f"no answer within {timeout_s:g} s")
    except (OSError, ValueError, httptools.HttpParserError) as error:
        return Response(0, problem=str(error) or type(error).__name__)


async def _exchange(method: str, url: str, body: bytes, content_type: str) -> Response:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    reader, writer = await asyncio.open_connection(host, port)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "") or "/"
        head = f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        if body:
            head += f"Content-Type: {content_type}\r\n"
        writer.write(head.encode("ascii") + b"\r\n" + body)
        return await _read(reader)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Response:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    while not answer.is_complete:
        data = await reader.read(65536)
        if not data:
            break
        parser.feed_data(data)
        if answer.size_bytes > ANSWER_MAX_BYTES:
            raise ValueError(f"the answer is larger than {ANSWER_MAX_BYTES} bytes")
    status = parser.get_status_code()
    return Response(status, b"".join(answer.parts)) if status >= 100 else Response(0, problem="no HTTP answer")
