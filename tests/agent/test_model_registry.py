"""Tests what the model registry serves, to which addresses, how fast, and that it rejects invalid requests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fakes.ollama.store import make
from herd.agent import model_registry
from herd.agent.model_registry import CONNECTIONS_MAX, ModelRegistry, ModelRegistrySettings

LAYER = bytes(range(256)) * 4096
OF_LAYER = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"


def with_registry(
    tmp_path: Path,
    play: Callable[[ModelRegistry, int, str], Awaitable[None]],
    settings: ModelRegistrySettings | None = None,
) -> None:
    digest = make(tmp_path, layers=(LAYER,))

    async def go() -> None:
        registry = ModelRegistry(settings or ModelRegistrySettings(), lambda: tmp_path)
        try:
            await play(registry, await registry.port(), digest)
        finally:
            registry.close()

    asyncio.run(go())


async def send(port: int, request: str) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body."""
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


def test_a_manifest_and_its_layers_are_served(tmp_path: Path) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        line, headers, manifest = await send(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1")
        assert line == "HTTP/1.1 200 OK" and hashlib.sha256(manifest).hexdigest() == digest
        line, headers, body = await send(port, f"HEAD /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1")
        assert (line, headers["content-length"], body) == ("HTTP/1.1 200 OK", str(len(LAYER)), b"")
        line, headers, body = await send(port, f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1")
        assert body == LAYER and headers["location"] == f"http://127.0.0.1:{port}/v2/herd/{digest}/blobs/{OF_LAYER}"

    with_registry(tmp_path, play)


@pytest.mark.parametrize(
    ("range_header", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1048570-", 1048570, 1048575), ("bytes=5-99999999", 5, 1048575)],
)
def test_a_range_is_served(tmp_path: Path, range_header: str, first: int, last: int) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        line, headers, body = await send(
            port, f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nRange: {range_header}"
        )
        assert line == "HTTP/1.1 206 Partial Content" and body == LAYER[first : last + 1]
        assert headers["content-range"] == f"bytes {first}-{last}/{len(LAYER)}"

    with_registry(tmp_path, play)


@pytest.mark.parametrize("range_header", ["bytes=9-5", "bytes=1048576-", "bytes=-5", "bytes=0-1,3-4", "lines=1-2"])
def test_an_invalid_range_is_rejected(tmp_path: Path, range_header: str) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        line, _headers, _body = await send(
            port, f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nRange: {range_header}"
        )
        assert line.startswith("HTTP/1.1 416")

    with_registry(tmp_path, play)


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
def test_any_other_request_is_not_found(tmp_path: Path, request_line: str) -> None:
    async def play(_: ModelRegistry, port: int, _digest: str) -> None:
        assert (await send(port, request_line))[0] == "HTTP/1.1 404 Not Found"

    with_registry(tmp_path, play)


def test_an_unknown_address_is_rejected_and_an_allowed_one_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(registry: ModelRegistry, port: int, digest: str) -> None:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await send(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1")
        registry.allow(frozenset({"127.0.0.1"}))
        assert (await send(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1"))[0] == "HTTP/1.1 200 OK"

    monkeypatch.setattr(model_registry, "is_loopback", lambda _ip: False)  # so that this machine needs permission too
    with_registry(tmp_path, play)


def test_too_many_connections_are_rejected(tmp_path: Path) -> None:
    async def play(_: ModelRegistry, port: int, digest: str) -> None:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        try:
            for reader, writer in held:
                writer.write(f"HEAD /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\n")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await send(port, f"GET /v2/herd/{digest}/manifests/latest HTTP/1.1")
        finally:
            for _, writer in held:
                writer.transport.abort()

    with_registry(tmp_path, play)


def test_without_models_to_share_it_does_not_listen(tmp_path: Path) -> None:
    async def go() -> None:
        assert await ModelRegistry(ModelRegistrySettings(share=False), lambda: tmp_path).port() == 0
        assert await ModelRegistry(ModelRegistrySettings(), lambda: None).port() == 0

    asyncio.run(go())


def test_all_connections_together_keep_the_bandwidth_limit(tmp_path: Path) -> None:
    """The reserved time of all connections is their bytes divided by the rate."""

    async def play(registry: ModelRegistry, port: int, digest: str) -> None:
        started_at = asyncio.get_running_loop().time()
        part = f"GET /v2/herd/{digest}/blobs/{OF_LAYER} HTTP/1.1\r\nRange: bytes=0-99999"
        await asyncio.gather(send(port, part), send(port, part))
        assert registry._free_at - started_at >= 2 * 100_000 / 4_000_000

    with_registry(tmp_path, play, ModelRegistrySettings(bytes_per_s=4_000_000))
