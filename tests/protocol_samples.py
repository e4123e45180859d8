"""Reads recorded exchanges with real servers: the request, and the status, headers and body of the answer.

Ollama 0.32.15; llama.cpp b11549 with one model, b10434 as a router (`router_*`) and while loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "fakes" / "ollama" / "transcripts"
LLAMACPP = Path(__file__).parent / "protocol_samples" / "llamacpp"


@dataclass(frozen=True)
class Sample:
    method: str
    path: str
    request: bytes
    status: int
    headers: dict[str, str]
    body: bytes


def sample(name: str, folder: Path = FOLDER) -> Sample:
    """Reads one file: the request line, the request body, a blank line, then the bytes of the answer."""
    asked, _, answered = (folder / f"{name}.txt").read_bytes().partition(b"\n\nHTTP/1.1 ")
    first, _, request = asked.partition(b"\n")
    method, path = first.decode().split()[:2]
    head, _, body = _as_lf(answered).partition(b"\n\n")
    status, *fields = head.decode().split("\n")
    headers = dict(field.split(": ", 1) for field in fields)
    if headers.get("Transfer-Encoding") == "chunked":
        body = _unchunked(body)
    return Sample(method, path, request.strip(), int(status.split()[0]), headers, body)


def _as_lf(answered: bytes) -> bytes:
    return answered.replace(b"\r\n", b"\n")


def _unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, rest = data.partition(b"\n")
        length = int(size, 16)
        if not length:
            return body
        body, data = body + rest[:length], rest[length:].lstrip(b"\n")
    raise AssertionError("the transcript ends before its last chunk")
