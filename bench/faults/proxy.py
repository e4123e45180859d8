"""A process of TCP proxies whose network can be cut, slowed or reset: one link for each LISTEN_PORT:HOST:PORT argument.

Commands are JSON lines on standard input: `{"port": 9001, "mode": "cut"}`. A cut link keeps its connections and the
bytes that were sent, accepts new connections, and delivers everything when it is whole again, as TCP does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from dataclasses import dataclass, field
from random import Random

READ_BYTES = 65536
DELAY_MAX_S = 1.5


@dataclass(slots=True)
class Link:
    """`mode`: "pass", "cut" or "slow"; "reset" resets the open connections once."""

    host: str
    port: int
    rng: Random
    is_whole: asyncio.Event = field(default_factory=asyncio.Event)
    is_slow: bool = False
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def set_mode(self, mode: str) -> None:
        if mode == "reset":
            for writer in list(self.writers):
                _reset(writer)
            return
        self.is_slow = mode == "slow"
        if mode == "cut":
            self.is_whole.clear()
        else:
            self.is_whole.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.is_whole.wait()
        try:
            other_reader, other_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            _reset(writer)
            return
        both = {writer, other_writer}
        self.writers |= both
        try:
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
        finally:
            self.writers -= both
            for one in both:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards bytes and the end. A reset of one side resets the other."""
        try:
            while data := await reader.read(READ_BYTES):
                await self._travel()
                writer.write(data)
                await writer.drain()
            await self._travel()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            _reset(writer)

    async def _travel(self) -> None:
        if self.is_slow:
            await asyncio.sleep(self.rng.random() * DELAY_MAX_S)
        await self.is_whole.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main(arguments: list[str]) -> None:
    links: dict[int, Link] = {}
    for argument in arguments:
        listen, host, port = argument.split(":")
        link = links[int(listen)] = Link(host, int(port), Random(listen))
        link.is_whole.set()
        await asyncio.start_server(link.serve, "127.0.0.1", int(listen))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        links[command["port"]].set_mode(command["mode"])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
