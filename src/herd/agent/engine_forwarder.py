"""A door on the network for an engine that listens on this machine only, open to the coordinator alone. Reads no byte it carries.

So nobody has to expose Ollama to the whole network: the agent listens on the network address, accepts connections from
the coordinator's address (and from this machine), and copies bytes both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
import struct
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from herd.addresses import is_loopback, plain_address
from herd.agent.forwarder_certificate import TlsIdentity

log = logging.getLogger("herd.agent.engine_forwarder")

BUFFER_MAX_BYTES = 256 * 1024
PROOF_BYTES = 64
"""What `trust.signing.forwarder_proof` is long."""


@dataclass(frozen=True, slots=True)
class ForwarderSettings:
    connections_max: int = field(
        default=512,
        metadata={
            "env": "FLEET_NODE_RELAY_CONNECTIONS",
            "help": "Maximum number of connections that the coordinator may hold to an engine through the agent.",
        },
    )
    connect_timeout_s: float = field(
        default=3.0,
        metadata={"env": "FLEET_NODE_RELAY_TIMEOUT", "help": "Timeout in seconds for connecting to the local engine."},
    )
    tls: bool = field(
        default=False,
        metadata={
            "env": "FLEET_NODE_TLS",
            "help": "Encrypt traffic between the coordinator and this machine's engines, with new keys at each start.",
        },
    )


class EngineForwarder:
    """Listens for one engine. `allow` tells who may come in."""

    def __init__(self, engine_url: str, settings: ForwarderSettings, lock: TlsIdentity | None = None) -> None:
        """With a `lock` the door speaks TLS, and who comes in proves first that he is the coordinator."""
        self._lock = lock
        parts = urlsplit(engine_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._settings = settings
        self._allowed: frozenset[str] = frozenset()
        self._server: asyncio.Server | None = None
        self._open: set[_Side] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Connections turned away: strangers, or too many."""

    @property
    def connections(self) -> int:
        """Open connections, counted at both ends."""
        return len(self._open)

    @property
    def held_bytes(self) -> int:
        """What was read at one end and is not written at the other yet."""
        return sum(side.transport.get_write_buffer_size() for side in self._open if side.transport is not None)

    @property
    def stopped(self) -> int:
        """Connected ends that are not read from, because the other end does not take it."""
        return sum(side.is_stopped for side in self._open)

    async def listen(self, host: str = "") -> int:
        """Opens the door, on every address unless one is named; the port it is on. Raises OSError."""
        loop = asyncio.get_running_loop()
        door = everywhere() if not host else socket.create_server((host, 0))
        self._server = await loop.create_server(
            lambda: _Side(self), sock=door, ssl=self._lock.context if self._lock is not None else None
        )
        return int(door.getsockname()[1])

    def allow(self, addresses: frozenset[str]) -> None:
        """From now on only these addresses, and this machine's loopback, may come in; others are cut off."""
        self._allowed = frozenset(map(plain_address, addresses))
        for side in list(self._open):
            if side.is_client and not self.admits(side.peer_ip):
                side.abort()

    def admits(self, ip: str) -> bool:
        return ip in self._allowed or is_loopback(ip)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connecting):
            task.cancel()
        for side in list(self._open):
            side.abort()

    # --- told by the sides ---

    def joined(self, side: _Side) -> None:
        clients = sum(one.is_client for one in self._open)
        if not self.admits(side.peer_ip) or clients >= self._settings.connections_max:
            self.turned_away(side)
            return
        self._open.add(side)
        if self._lock is None:
            self.proved(side)
        else:
            side.wants_proof = True
            asyncio.get_running_loop().call_later(self._settings.connect_timeout_s, side.must_have_proved)

    def is_proof(self, said: bytes) -> bool:
        """Whether the coordinator said this."""
        expected = self._lock.proof().encode("ascii") if self._lock is not None else b""
        return bool(expected) and hmac.compare_digest(expected, said)

    def proved(self, side: _Side) -> None:
        """It may come in: the engine is called."""
        task = asyncio.get_running_loop().create_task(self._connect(side))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def turned_away(self, side: _Side) -> None:
        self.refused += 1
        side.abort()

    def left(self, side: _Side) -> None:
        self._open.discard(side)

    async def _connect(self, client: _Side) -> None:
        loop = asyncio.get_running_loop()
        engine = _Side(self, client)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await loop.create_connection(lambda: engine, *self._target)
        except (OSError, TimeoutError) as error:
            log.debug("the engine refuses: %s", error)
            client.abort()
            return
        self._open.add(engine)
        client.joined_to(engine)


class _Side(asyncio.Protocol):
    """One end of a relayed connection. What comes in goes out at the other end; a full buffer there stops reading here."""

    def __init__(self, relay: EngineForwarder, other: _Side | None = None) -> None:
        self._relay = relay
        self._other = other
        self._early: list[bytes] = []
        """What the client sent before the engine was connected: uvloop begins to read although it was told to wait."""
        self.wants_proof = False
        """Whether it has still to say who it is; what it said so far is in `_early`."""
        self.has_ended = False
        """Whether it said all it will say, half-closing its connection."""
        self.is_stopped = False
        self.transport: asyncio.Transport | None = None
        self.is_client = other is None
        self.peer_ip = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=BUFFER_MAX_BYTES)
        peer = transport.get_extra_info("peername")
        self.peer_ip = plain_address(str(peer[0])) if peer else ""
        if self.is_client:
            self._relay.joined(self)
            if not self.wants_proof and not self.transport.is_closing():
                self.transport.pause_reading()

    def joined_to(self, other: _Side) -> None:
        """The engine answers: what the client sent can flow."""
        self._other = other
        if self.transport is None or self.transport.is_closing() or other.transport is None:
            other.abort()
            return
        other.transport.writelines(self._early)
        self._early.clear()
        if self.has_ended:
            other.transport.write_eof()
        elif not self.is_stopped:
            self.transport.resume_reading()

    def _prove(self, data: bytes) -> None:
        said = b"".join((*self._early, data))
        self._early = [said]
        if len(said) < PROOF_BYTES:
            return
        if not self._relay.is_proof(said[:PROOF_BYTES]):
            self._relay.turned_away(self)
            return
        self.wants_proof = False
        self._early = [said[PROOF_BYTES:]]
        if self.transport is not None:
            self.transport.pause_reading()
        self._relay.proved(self)

    def must_have_proved(self) -> None:
        if self.wants_proof and self.transport is not None and not self.transport.is_closing():
            self._relay.turned_away(self)

    def data_received(self, data: bytes) -> None:
        if self.wants_proof:
            self._prove(data)
        elif self._other is not None and self._other.transport is not None:
            self._other.transport.write(data)
        elif self.is_client and self.transport is not None:
            self._early.append(data)
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Half-closed: the other end is told, and may still answer. When both have ended, it is over."""
        self.has_ended = True
        other = self._other
        if self.transport is not None and not self.transport.can_write_eof():
            return False  # TLS knows no half-closed connection: who has ended is gone
        if other is None:
            return self.is_client
        if other.transport is None or other.transport.is_closing():
            return False
        if other.has_ended:
            # Each closes when what is still to be written there is written.
            other.transport.close()
            return False
        if not other.transport.can_write_eof():
            other.transport.close()
            return False
        with contextlib.suppress(OSError, RuntimeError):
            other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.stop_reading(True)

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.stop_reading(False)

    def stop_reading(self, is_stopped: bool) -> None:
        self.is_stopped = is_stopped
        if self.transport is None or self.transport.is_closing():
            return
        if is_stopped:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.left(self)
        other, self._other = self._other, None
        if other is None:
            return
        other.lost(is_whole=exc is None and self.has_ended)

    def lost(self, is_whole: bool) -> None:
        """The other end is gone. A reset there is a reset here: nobody may take a broken answer for a whole one."""
        self._other = None
        if self.transport is None:
            return
        if is_whole:
            self.transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Resets: without this option an abort with nothing unread looks like an orderly end."""
        if self.transport is None:
            return
        with contextlib.suppress(OSError, AttributeError):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def everywhere() -> socket.socket:
    """A listening socket on all addresses of both families, where the system can."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
