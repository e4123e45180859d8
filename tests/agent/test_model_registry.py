"""The door to a machine's models: what it hands out, to whom, how fast, and what it makes of nonsense."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fakes.ollama.store import make
from herd.agent import model_registry as door
from herd.agent.model_registry import CONNECTIONS_MAX, ModelRegistry, ModelRegistrySettings

LAYER = bytes(range(256)) * 4096
OF_LAYER = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"


def with_door(
    tmp_path: Path,
    play: Callable[[ModelRegistry, int, str], Awaitable[None]],
    settings: ModelRegistrySettings | None = None,
) -> None:
    digest = make(tmp_path, layers=(LAYER,))

    async def go() -> None:
        opened = ModelRegistry(settings or ModelRegistrySettings(), lambda: tmp_path)
        try:
            await play(opened, await opened.port(), digest)
        finally:
            opened.close()

    asyncio.run(go())


async def ask(port: int, request: str) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body; all empty where the door was shut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{request}\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest if one)}
        size = 0 if request.startswith("HEAD") else int(headers["content-length"])
        return line, headers, await reader.readexactly(size)
    finally:
        writer.transport.abort()


def test_a_manifest_and_the_layers_are_handed_out(tmp_path: Path) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        line, headers, manifest = await ask(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1")
        assert line == "HTTP/1.1 200 OK" and hashlib.sha256(manifest).hexdigest() == digest
        line, headers, body = await ask(port, f"HEAD /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1")
        assert (line, headers["content-length"], body) == ("HTTP/1.1 200 OK", str(len(LAYER)), b"")
        line, headers, body = await ask(port, f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1")
        assert body == LAYER and headers["location"] == f"http://127.0.0.1:{port}/v2/herd/{digest}/blobs/{OF_LAYER}"

    with_door(tmp_path, play)


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1048570-", 1048570, 1048575), ("bytes=5-99999999", 5, 1048575)],
)
def test_a_range_is_that_range(tmp_path: Path, wanted: str, first: int, last: int) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        line, headers, body = await ask(port, f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nRange: {wanted}")
        assert line == "HTTP/1.1 206 Partial Content" and body == LAYER[first : last + 1]
        assert headers["content-range"] == f"bytes {first}-{last}/{len(LAYER)}"

    with_door(tmp_path, play)


@pytest.mark.parametrize("wanted", ["bytes=9-5", "bytes=1048576-", "bytes=-5", "bytes=0-1,3-4", "lines=1-2"])
def test_a_range_that_makes_no_sense_is_refused(tmp_path: Path, wanted: str) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        line, _headers, _body = await ask(port, f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nRange: {wanted}")
        assert line.startswith("HTTP/1.1 416")

    with_door(tmp_path, play)


@pytest.mark.parametrize(
    "request_line",
    [
        "GET / HTTP/1.1",
        "GET /v2/herd/../../etc/passwd/manifests/latest HTTP/1.1",
        f"GET /v2/herd/{'0' * 64}/manifests/latest HTTP/1.1",
        f"PUT /v2/herd/{'0' * 64}/manifests/latest HTTP/1.1",
        f"GET /v2/herd/{'0' * 64}/blobs/sha256:..%2f HTTP/1.1",
        "\x00\x01",
    ],
)
def test_what_is_not_shared_is_not_there(tmp_path: Path, request_line: str) -> None:
    async def play(_: ModelRegistry, port: int, _digest: str) -> None:
        assert (await ask(port, request_line))[0] == "HTTP/1.1 404 Not Found"

    with_door(tmp_path, play)


def test_a_stranger_is_turned_away_and_a_named_peer_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(opened: ModelRegistry, port: int, digest: str) -> None:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ask(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1")
        opened.allow(frozenset({"127.0.0.1"}))
        assert (await ask(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1"))[0] == "HTTP/1.1 200 OK"

    monkeypatch.setattr(door, "is_loopback", lambda _ip: False)  # so that this machine is a stranger too
    with_door(tmp_path, play)


def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        try:
            for reader, writer in held:
                writer.write(f"HEAD /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await ask(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1")
        finally:
            for _, writer in held:
                writer.transport.abort()

    with_door(tmp_path, play)


def test_nothing_is_opened_where_nothing_is_shared(tmp_path: Path) -> None:
    async def go() -> None:
        assert await ModelRegistry(ModelRegistrySettings(share=False), lambda: tmp_path).port() == 0
        assert await ModelRegistry(ModelRegistrySettings(), lambda: None).port() == 0

    asyncio.run(go())


def test_all_copies_together_keep_to_the_rate(tmp_path: Path) -> None:
    """Each piece books its time: what was booked is the bytes over the rate, whoever read them."""

    async def play(opened: ModelRegistry, port: int, digest: str) -> None:
        began_at = asyncio.get_running_loop().time()
        part = f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nRange: bytes=0-99999"
        await asyncio.gather(ask(port, part), ask(port, part))
        assert opened._free_at - began_at >= 2 * 100_000 / 4_000_000

    with_door(tmp_path, play, ModelRegistrySettings(bytes_per_s=4_000_000))
