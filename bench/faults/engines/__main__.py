"""One scripted engine: `python -m bench.faults.engines --kind llamacpp --host 127.0.1.1 --port 9001 --log FILE`.

It speaks the HTTP of llama.cpp or Ollama, runs as many requests at once as it has slots, and writes a line to its log
when it begins and ends a request. `POST /bench` changes its behavior.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench.faults.answers import Answer
from bench.faults.engines import asked, failures, inventory
from bench.faults.engines.asked import Asked
from bench.faults.engines.failures import Failure
from bench.faults.engines.formats import DOCUMENT, Format, Written, format_of
from bench.faults.engines.steps import Does, Step, add, steps_of

Json = dict[str, Any]
BODY_MAX_BYTES = 1 << 20
SPLIT_SHARE = 0.1
"""Share of the writes that are sent in two parts, cut at any byte."""


@dataclass(slots=True)
class Behavior:
    """What `POST /bench` can change."""

    fails: float = 0.0
    """Share of the requests that fail."""
    is_frozen: bool = False
    """Whether the model's process is frozen, while the server answers."""
    is_loaded: bool = True


@dataclass(slots=True, kw_only=True)
class Engine:
    options: argparse.Namespace
    rng: Random
    log: int
    slots: asyncio.Semaphore
    behavior: Behavior
    moves: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the model's process is not frozen."""
    busy: int = 0
    loading: asyncio.Task[None] | None = None

    # --- the connection ---

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split(" ", 2)
        lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        raw = await reader.readexactly(int(lines.get("content-length", 0)))
        body = json.loads(raw) if raw else {}
        keeps = lines.get("connection") != "close"
        if path == "/bench":
            return self._change(body, writer)
        known = self._known().get((method, path))
        if known is not None:
            return _document(writer, 200, json.dumps(known(body)).encode(), keeps)
        request = asked.read(path, body, self.options.kind == "llamacpp")
        wire = format_of(path)
        if request is None or (wire is None and "embed" not in path):
            return _document(writer, 404, b'{"error":"404 page not found"}', keeps)
        if request.rendered is not None:
            rendered = {"model": request.model, "_debug_info": {"rendered_template": request.rendered}}
            return _document(writer, 200, json.dumps(rendered).encode(), keeps)
        answering = asyncio.ensure_future(self._answer(path, request, wire, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not answering.done():
            answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await answering and keeps
        return False

    def _known(self) -> Any:  # noqa: ANN401 - two mappings of functions
        if self.options.kind == "llamacpp":
            return inventory.llamacpp(self.options.slots, self.busy, self.options.thinks)
        return inventory.ollama(self.behavior.is_loaded, self.options.thinks)

    def _change(self, body: Json, writer: asyncio.StreamWriter) -> bool:
        for name, value in body.items():
            setattr(self.behavior, name, value)
        if self.behavior.is_frozen:
            self.moves.clear()
        else:
            self.moves.set()
        return _document(writer, 200, b"{}", keeps=False)

    # --- the answer ---

    async def _answer(self, path: str, request: Asked, wire: Format | None, writer: asyncio.StreamWriter) -> bool:
        self._note("start", request.answer, path)
        end = "cut"
        try:
            async with self.slots:
                self.busy += 1
                try:
                    await self._prefill()
                    is_failing = self.rng.random() < self.behavior.fails
                    failure = failures.choose(path, request.is_stream, self.rng) if is_failing else None
                    keeps = await self._written(path, request, wire, writer, failure)
                finally:
                    self.busy -= 1
            end = "end" if failure is None else f"failed: {failure.name}"
            return keeps
        finally:
            self._note(end, request.answer, path)

    async def _prefill(self) -> None:
        if not self.behavior.is_loaded:
            if self.loading is None or self.loading.done():
                self.loading = asyncio.ensure_future(self._load())
            await asyncio.shield(self.loading)
        await self._pass(self.options.prefill_s)

    async def _load(self) -> None:
        await asyncio.sleep(self.options.load_s)
        self.behavior.is_loaded = True

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.moves.wait()

    async def _written(
        self, path: str, request: Asked, wire: Format | None, writer: asyncio.StreamWriter, failure: Failure | None
    ) -> bool:
        """Writes the answer, or what this failure leaves of it."""
        if failure is not None and failure.status:
            return _document(writer, failure.status, failure.body, True, failure.headers)
        if failure is not None and failure.closes == "reset" and not failure.words:
            return _reset(writer)
        pause_s = request.answer.word_ms / 1000.0 * self.options.slowness
        if wire is None:
            await self._pass(request.answer.words_count * pause_s)
            return _whole(writer, _embedding(path, request), failure)
        steps, finish = steps_of(request)
        written = Written(request.model, finish=finish, prompt_tokens=request.prompt_tokens)
        if request.is_stream:
            _head(writer, wire.content_type)
            _chunk(writer, wire.start(request.model))
        for index, step in enumerate(steps):
            await self._pass(pause_s * step.units)
            if failure is not None and request.is_stream and index >= failure.words:
                return _fail(writer, failure)
            add(written, step, request.answer.arguments)
            if request.is_stream:
                await self._send(writer, _piece(wire, step, request.answer))
        if not request.is_stream:
            return _whole(writer, wire.whole(written), failure)
        if failure is not None:
            return _fail(writer, failure)
        await self._send(writer, wire.end(written))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.rng.random() < SPLIT_SHARE and len(data) > 1:
            cut = self.rng.randrange(1, len(data))
            _chunk(writer, data[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            data = data[cut:]
        _chunk(writer, data)
        await writer.drain()

    def _note(self, what: str, answer: Answer, path: str) -> None:
        """One line with the time on the clock that all processes of this machine share."""
        os.write(self.log, f"{json.dumps([time.monotonic(), what, answer.seed, path])}\n".encode())


def _piece(wire: Format, step: Step, answer: Answer) -> bytes:
    if step.does is Does.CALL:
        return wire.call(answer.arguments)
    return wire.thinking(step.word) if step.does is Does.THINKING else wire.text(step.word)


def _embedding(path: str, request: Asked) -> bytes:
    vector, tokens = request.answer.embedding, request.prompt_tokens
    if path == "/v1/embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json.dumps({"object": "list", "data": data, "model": request.model, "usage": usage}).encode()
    if path == "/api/embeddings":
        return json.dumps({"embedding": vector}).encode()
    return json.dumps({"model": request.model, "embeddings": [vector], "prompt_eval_count": tokens}).encode()


# --- HTTP ---


def _head(writer: asyncio.StreamWriter, content_type: str) -> None:
    writer.write(
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode("ascii")
    )


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _document(
    writer: asyncio.StreamWriter, status: int, data: bytes, keeps: bool, headers: tuple[tuple[str, str], ...] = ()
) -> bool:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers) + ("" if keeps else "Connection: close\r\n")
    kind = DOCUMENT if data.startswith((b"{", b"[")) else "text/html" if data.startswith(b"<") else "text/plain"
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode("ascii")
    )
    writer.write(data)
    return keeps


def _whole(writer: asyncio.StreamWriter, data: bytes, failure: Failure | None) -> bool:
    """The document, or its first half before the connection ends."""
    if failure is None:
        return _document(writer, 200, data, True)
    writer.write(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data))
    writer.write(data[: len(data) // 2])
    return False


def _fail(writer: asyncio.StreamWriter, failure: Failure) -> bool:
    """The failure in the middle of a stream."""
    _chunk(writer, failure.body)
    if failure.closes == "reset":
        return _reset(writer)
    if failure.closes == "chunk":
        writer.write(b"0\r\n\r\n")
    return failure.closes == "chunk"


def _reset(writer: asyncio.StreamWriter) -> bool:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def main(options: argparse.Namespace) -> None:
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    engine = Engine(
        options=options, rng=Random(options.port), log=log, slots=asyncio.Semaphore(options.slots), behavior=Behavior()
    )
    engine.moves.set()
    server = await asyncio.start_server(engine.serve, options.host, options.port, limit=BODY_MAX_BYTES)
    async with server:
        await server.serve_forever()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults.engines", description=__doc__)
    parser.add_argument("--kind", choices=("llamacpp", "ollama"), required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--slowness", type=float, default=1.0, help="factor of the time for each word")
    parser.add_argument("--prefill-s", type=float, default=0.05)
    parser.add_argument("--load-s", type=float, default=12.0)
    parser.add_argument("--thinks", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(arguments()))
    sys.exit(0)
