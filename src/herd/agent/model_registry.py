"""Serves this machine's models to the fleet's other machines, as an Ollama registry that their engines pull from.

    GET, HEAD /v2/herd/MANIFEST_DIGEST/manifests/ANY_TAG              the manifest, if all its layers are here
    HEAD      /v2/herd/MANIFEST_DIGEST/blobs/sha256:LAYER_DIGEST      the size of a layer
    GET       /v2/herd/MANIFEST_DIGEST/blobs/sha256:LAYER_DIGEST      a layer, or the requested range of it

So a fleet downloads a model from the internet only once, and no agent needs permission to write into an engine's store:
the engine itself pulls. It checks every digest, resumes interrupted downloads and writes the manifest last. It requires
a `Location` header in the answer for a complete layer (measured with Ollama 0.32.15). Only this machine and machines
that the coordinator named may connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from herd.addresses import is_loopback, plain_address
from herd.agent.engine_forwarder import listen_on_all_addresses
from herd.agent.model_store import Blob, ModelStore
from herd.errors import HerdError
from herd.http1.contract import Header
from herd.http1.exchange import render_head
from herd.http1.request_head import RequestHead, read_head

log = logging.getLogger("herd.agent.model_registry")

CONNECTIONS_MAX = 64
HEAD_MAX_BYTES = 16 * 1024
HEAD_MAX_S = 10.0
CHUNK_BYTES = 256 * 1024
STALL_MAX_S = 30.0
"""A connection whose client reads no bytes for this long is closed."""
_PATH = re.compile(r"/v2/herd/([0-9a-f]{64})/(?:manifests/[\w.:-]{1,128}|blobs/(sha256:[0-9a-f]{64}))\Z", re.ASCII)
_RANGE = re.compile(rb"bytes=(\d{1,15})-(\d{0,15})\Z")
_MANIFEST = b"application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class ModelRegistrySettings:
    share: bool = field(
        default=True,
        metadata={
            "env": "FLEET_NODE_SHARE_MODELS",
            "help": "Let paired machines copy models from this machine instead of downloading them again.",
        },
    )
    store: str = field(
        default="",
        metadata={"env": "FLEET_NODE_OLLAMA_MODELS", "help": "Ollama's model folder, if the agent does not find it."},
    )
    bytes_per_s: int = field(
        default=0,
        metadata={
            "env": "FLEET_NODE_SHARE_BYTES_PER_SECOND",
            "help": "Total bandwidth limit for model copies from this machine, in bytes per second; 0 means unlimited.",
            "min": 0,
        },
    )


class ModelRegistry:
    """Listens once a model store is found. `allow` sets the addresses that may connect."""

    def __init__(self, settings: ModelRegistrySettings, find_store: Callable[[], Path | None]) -> None:
        self._settings = settings
        self._find_store = find_store
        self._store: ModelStore | None = None
        self._server: asyncio.Server | None = None
        self._allowed: frozenset[str] = frozenset()
        self._open: set[asyncio.StreamWriter] = set()
        self._free_at = 0.0
        self.sent_bytes = 0
        """Bytes of layers and manifests since the start."""

    async def port(self) -> int:
        """The port, or 0 if there is no store. The first calls find the store and start to listen."""
        if not self._settings.share:
            return 0
        if self._store is None:
            folder = await asyncio.to_thread(self._find_store)
            self._store = ModelStore(folder) if folder is not None else None
        if self._store is None:
            return 0
        if self._server is None:
            try:
                self._server = await asyncio.start_server(
                    self._serve, sock=listen_on_all_addresses(), limit=HEAD_MAX_BYTES
                )
            except OSError as error:
                log.warning(
                    "the model registry cannot listen, so other machines cannot copy models from here: %s", error
                )
                return 0
        return _port_of(self._server)

    def allow(self, addresses: frozenset[str]) -> None:
        self._allowed = addresses

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    # --- one connection ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = plain_address(str(writer.get_extra_info("peername", ("",))[0]))
        if len(self._open) >= CONNECTIONS_MAX or not (peer in self._allowed or is_loopback(peer)):
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("a connection to the model registry ended: %s", error)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether another may follow on this connection."""
        async with asyncio.timeout(HEAD_MAX_S):
            raw = await reader.readuntil(b"\r\n\r\n")
        try:
            head = read_head(raw)
        except HerdError:
            return await _respond_not_found(writer)
        match = _PATH.match(head.path)
        if match is None or head.query or head.length or head.method not in ("GET", "HEAD") or self._store is None:
            return await _respond_not_found(writer)
        model, digest = match.groups()
        if digest is None:
            return await self._send_manifest(writer, head, model)
        blob = await asyncio.to_thread(self._store.blob, digest)
        return await (self._send_blob(writer, head, blob) if blob is not None else _respond_not_found(writer))

    async def _send_manifest(self, writer: asyncio.StreamWriter, head: RequestHead, model: str) -> bool:
        assert self._store is not None
        manifest = await asyncio.to_thread(self._store.manifest, model)
        if manifest is None:
            return await _respond_not_found(writer)
        body = manifest if head.method == "GET" else b""
        await _respond(writer, 200, [(b"Content-Type", _MANIFEST)], len(manifest), body)
        self.sent_bytes += len(manifest)
        return head.keeps_alive

    async def _send_blob(self, writer: asyncio.StreamWriter, head: RequestHead, blob: Blob) -> bool:
        first, last, status = 0, blob.size_bytes - 1, 200
        headers = [
            (b"Content-Type", b"application/octet-stream"),
            (b"Accept-Ranges", b"bytes"),
            (b"Location", b"http://%b%b" % (_header(head, b"host"), head.path.encode("ascii"))),
        ]
        if requested := _header(head, b"range"):
            byte_range = _byte_range(requested, blob.size_bytes)
            if byte_range is None:
                await _respond(writer, 416, [(b"Content-Range", b"bytes */%d" % blob.size_bytes)], 0)
                return False
            (first, last), status = byte_range, 206
            headers.append((b"Content-Range", b"bytes %d-%d/%d" % (first, last, blob.size_bytes)))
        await _respond(writer, status, headers, last - first + 1)
        if head.method == "GET" and blob.size_bytes:
            with await asyncio.to_thread(blob.path.open, "rb") as file:
                await self._send_file(writer, file, first, last + 1)
        return head.keeps_alive

    async def _send_file(self, writer: asyncio.StreamWriter, file: BinaryIO, begin: int, end: int) -> None:
        """Raises `ValueError` if the file became shorter: the client sees an interrupted answer, not a complete one."""
        await asyncio.to_thread(file.seek, begin)
        while begin < end:
            data = await asyncio.to_thread(file.read, min(CHUNK_BYTES, end - begin))
            if not data:
                raise ValueError("a layer became shorter while it was sent")
            await self._wait_for_bandwidth(len(data))
            writer.write(data)
            async with asyncio.timeout(STALL_MAX_S):
                await writer.drain()
            begin += len(data)
            self.sent_bytes += len(data)

    async def _wait_for_bandwidth(self, size_bytes: int) -> None:
        """Limits the total rate of all connections: each chunk reserves the time that it takes."""
        rate = self._settings.bytes_per_s
        if not rate:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size_bytes / rate
        await asyncio.sleep(self._free_at - now)


def _header(head: RequestHead, name: bytes) -> bytes:
    return next((value for key, value in head.headers if key == name), b"")


def _byte_range(requested: bytes, size_bytes: int) -> tuple[int, int] | None:
    """The first and last byte of "bytes=a-b" or "bytes=a-"; None if the range is not in the file."""
    match = _RANGE.match(requested)
    if match is None:
        return None
    first = int(match[1])
    last = min(int(match[2]), size_bytes - 1) if match[2] else size_bytes - 1
    return (first, last) if first <= last else None


async def _respond_not_found(writer: asyncio.StreamWriter) -> bool:
    """Answers 404; returns False, because the rest of a malformed request could be read as another one."""
    await _respond(writer, 404, [], 0)
    return False


async def _respond(
    writer: asyncio.StreamWriter, status: int, headers: Sequence[Header], length: int, body: bytes = b""
) -> None:
    writer.write(render_head(status, headers, b"Content-Length: %d\r\n" % length) + body)
    with contextlib.suppress(ConnectionError):
        await writer.drain()


def _port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])
