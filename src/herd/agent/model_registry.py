"""Serves this machine's models to the other machines of the fleet, as a registry that their own engines pull from. Writes nothing.

    GET  /v2/herd/HEX/manifests/TAG            the manifest, if all its layers are here
    HEAD /v2/herd/HEX/blobs/sha256:HEX         how long a layer is
    GET  /v2/herd/HEX/blobs/sha256:HEX         a layer, or the range of it that was asked for

So a model crosses the internet once for each fleet, and no agent needs the right to write into an engine's store: the puller is the
engine, which checks every digest, resumes what broke off and puts the manifest last. It wants a `Location` header with a whole layer's
answer (measured with Ollama 0.32.15). Only machines that the coordinator named, and this one, may come in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from herd.addresses import is_loopback, plain_address
from herd.agent.engine_forwarder import everywhere
from herd.agent.model_store import Blob, ModelStore

log = logging.getLogger("herd.agent.model_registry")

CONNECTIONS_MAX = 64
HEAD_MAX_BYTES = 16 * 1024
HEAD_MAX_S = 10.0
PIECE_BYTES = 256 * 1024
STALL_MAX_S = 30.0
"""A puller that takes nothing for so long is left."""
_REQUEST = re.compile(
    r"(GET|HEAD) /v2/herd/([0-9a-f]{64})/(?:manifests/[\w.:-]{1,128}|blobs/(sha256:[0-9a-f]{64})) HTTP/1\.[01]\Z",
    re.ASCII,
)
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})\Z", re.ASCII)
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class SharingSettings:
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
    """Listens once there is a store and a peer; `allow` says who may come in."""

    def __init__(self, settings: SharingSettings, find: Callable[[], Path | None]) -> None:
        self._settings = settings
        self._find = find
        self._library: ModelStore | None = None
        self._server: asyncio.Server | None = None
        self._allowed: frozenset[str] = frozenset()
        self._open: set[asyncio.StreamWriter] = set()
        self._free_at = 0.0
        self.sent_bytes = 0
        """Of layers and manifests, ever."""

    async def port(self) -> int:
        """Where it listens; 0 where there is nothing to share. Looks for the store and opens the door when it is first asked."""
        if not self._settings.share:
            return 0
        if self._library is None:
            folder = await asyncio.to_thread(self._find)
            self._library = ModelStore(folder) if folder is not None else None
        if self._library is None:
            return 0
        if self._server is None:
            try:
                self._server = await asyncio.start_server(self._serve, sock=everywhere(), limit=HEAD_MAX_BYTES)
            except OSError as error:
                log.warning("models cannot be shared: %s", error)
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
            log.debug("a copy's connection ended: %s", error)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another may follow."""
        async with asyncio.timeout(HEAD_MAX_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in rest if one)
        }
        asked = _REQUEST.match(line)
        if asked is None or self._library is None:
            await _say(writer, "404 Not Found", {}, b"")
            return False
        method, model, digest = asked.groups()
        if digest is None:
            return await self._send_manifest(writer, method, model)
        blob = await asyncio.to_thread(self._library.blob, digest)
        if blob is None:
            await _say(writer, "404 Not Found", {}, b"")
            return False
        place = f"http://{headers.get('host', '')}{line.split(' ')[1]}"
        return await self._send_blob(writer, method, blob, headers.get("range", ""), place)

    async def _send_manifest(self, writer: asyncio.StreamWriter, method: str, model: str) -> bool:
        assert self._library is not None
        manifest = await asyncio.to_thread(self._library.manifest, model)
        if manifest is None:
            await _say(writer, "404 Not Found", {}, b"")
            return False
        await _say(
            writer,
            "200 OK",
            {"Content-Type": _MANIFEST, "Content-Length": len(manifest)},
            manifest if method == "GET" else b"",
        )
        self.sent_bytes += len(manifest)
        return True

    async def _send_blob(self, writer: asyncio.StreamWriter, method: str, blob: Blob, wanted: str, place: str) -> bool:
        first, last, status = 0, blob.size_bytes - 1, "200 OK"
        headers: dict[str, object] = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "Location": place,
        }
        if wanted:
            span = _span(wanted, blob.size_bytes)
            if span is None:
                await _say(writer, "416 Range Not Satisfiable", {"Content-Range": f"bytes */{blob.size_bytes}"}, b"")
                return False
            (first, last), status = span, "206 Partial Content"
            headers["Content-Range"] = f"bytes {first}-{last}/{blob.size_bytes}"
        await _say(writer, status, {**headers, "Content-Length": last - first + 1}, b"")
        if method == "GET" and blob.size_bytes:
            with await asyncio.to_thread(blob.path.open, "rb") as file:
                await self._send_file(writer, file, first, last + 1)
        return True

    async def _send_file(self, writer: asyncio.StreamWriter, file: BinaryIO, begin: int, end: int) -> None:
        """Raises `ValueError` where the file became shorter meanwhile: the puller sees a cut, never a false end."""
        await asyncio.to_thread(file.seek, begin)
        while begin < end:
            data = await asyncio.to_thread(file.read, min(PIECE_BYTES, end - begin))
            if not data:
                raise ValueError("a layer became shorter")
            await self._wait_for_turn(len(data))
            writer.write(data)
            async with asyncio.timeout(STALL_MAX_S):
                await writer.drain()
            begin += len(data)
            self.sent_bytes += len(data)

    async def _wait_for_turn(self, size_bytes: int) -> None:
        """All copies together keep to the rate: each piece books the time it takes."""
        rate = self._settings.bytes_per_s
        if not rate:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size_bytes / rate
        await asyncio.sleep(self._free_at - now)


def _span(wanted: str, size_bytes: int) -> tuple[int, int] | None:
    """The first and last byte of "bytes=a-b" or "bytes=a-"; None where that is not in the file."""
    found = _RANGE.match(wanted)
    if found is None:
        return None
    first = int(found[1])
    last = min(int(found[2]), size_bytes - 1) if found[2] else size_bytes - 1
    return (first, last) if first <= last else None


async def _say(writer: asyncio.StreamWriter, status: str, headers: dict[str, object], body: bytes) -> None:
    if "Content-Length" not in headers:
        headers = {**headers, "Content-Length": len(body)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body)
    with contextlib.suppress(ConnectionError):
        await writer.drain()


def _port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])
