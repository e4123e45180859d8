"""Forwards TCP connections from the coordinator to an engine that listens only on this machine.

So Ollama does not have to be exposed to the network: the agent listens on the network, accepts connections from the
coordinator's address and from this machine, and copies bytes in both directions without reading them. To an engine that
requires an API key, it adds the key to each request (`keyed_requests.py`), and then admits only the coordinator.
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
from herd.agent.keyed_requests import KeyedRequests
from herd.errors import HerdError

log = logging.getLogger("herd.agent.engine_forwarder")

BUFFER_MAX_BYTES = 256 * 1024
PROOF_BYTES = 64
"""The length of `trust.signing.forwarder_proof`."""


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
    """Listens for one engine. `allow` sets the addresses that may connect."""

    def __init__(self, engine_url: str, settings: ForwarderSettings, identity: TlsIdentity | None = None) -> None:
        """With an `identity` connections use TLS, and the client first proves that it is the coordinator."""
        self._identity = identity
        parts = urlsplit(engine_url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._settings = settings
        self._allowed: frozenset[str] = frozenset()
        self._key = ""
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Rejected connections: not allowed, or too many."""

    @property
    def connections(self) -> int:
        """Open connections to clients and to the engine."""
        return len(self._open)

    @property
    def buffered_bytes(self) -> int:
        """Bytes that were read from one connection and are not written to the other yet."""
        return sum(side.transport.get_write_buffer_size() for side in self._open if side.transport is not None)

    @property
    def paused(self) -> int:
        """Connections that are not read, because the other side is slower."""
        return sum(side.is_paused for side in self._open)

    async def listen(self, host: str = "") -> int:
        """Listens on this address, or on all; returns the port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        listener = listen_on_all_addresses() if not host else socket.create_server((host, 0))
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=listener, ssl=self._identity.context if self._identity is not None else None
        )
        return int(listener.getsockname()[1])

    def allow(self, addresses: frozenset[str]) -> None:
        """Allows only these addresses and loopback to connect, and closes the connections of others."""
        self._allowed = frozenset(map(plain_address, addresses))
        for side in list(self._open):
            if side.is_client and not self.admits(side.peer_ip):
                side.abort()

    def use_key(self, key: str) -> None:
        """The engine requires this key; connections that were opened with another one are closed."""
        if key == self._key:
            return
        self._key = key
        for side in list(self._open):
            side.abort()

    def keyed_requests(self) -> KeyedRequests | None:
        return KeyedRequests(self._key) if self._key else None

    def admits(self, ip: str) -> bool:
        """With a key, other programs of this machine have to use the engine's own port and their own key."""
        if not self._key:
            return ip in self._allowed or is_loopback(ip)
        return ip in self._allowed or (is_loopback(ip) and any(map(is_loopback, self._allowed)))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connecting):
            task.cancel()
        for side in list(self._open):
            side.abort()

    # --- called by the connections ---

    def accept(self, side: _Connection) -> None:
        clients = sum(side.is_client for side in self._open)
        if not self.admits(side.peer_ip) or clients >= self._settings.connections_max:
            self.reject(side)
            return
        self._open.add(side)
        if self._identity is None:
            self.connect_to_engine(side)
        else:
            side.needs_proof = True
            asyncio.get_running_loop().call_later(self._settings.connect_timeout_s, side.reject_without_proof)

    def is_proof(self, received: bytes) -> bool:
        """Whether these bytes are the coordinator's proof."""
        expected = self._identity.proof().encode("ascii") if self._identity is not None else b""
        return bool(expected) and hmac.compare_digest(expected, received)

    def connect_to_engine(self, side: _Connection) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(side))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def reject(self, side: _Connection) -> None:
        self.refused += 1
        side.abort()

    def remove(self, side: _Connection) -> None:
        self._open.discard(side)

    async def _connect(self, client: _Connection) -> None:
        loop = asyncio.get_running_loop()
        engine = _Connection(self, client)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await loop.create_connection(lambda: engine, *self._target)
        except (OSError, TimeoutError) as error:
            log.debug("the engine does not accept a connection: %s", error)
            client.abort()
            return
        self._open.add(engine)
        client.connected_to(engine)


class _Connection(asyncio.Protocol):
    """One of the two connections of a forwarded stream. A full write buffer of the other one pauses reading here."""

    def __init__(self, forwarder: EngineForwarder, other: _Connection | None = None) -> None:
        self._forwarder = forwarder
        self._other = other
        self._buffered: list[bytes] = []
        """Bytes from the client before the engine is connected: uvloop starts to read even if reading is paused."""
        self._keyed = forwarder.keyed_requests() if other is None else None
        self.needs_proof = False
        """Whether the client still has to send its proof; the bytes so far are in `_buffered`."""
        self.has_ended = False
        """Whether this side sends no more bytes: it has half-closed the connection."""
        self.is_paused = False
        self.transport: asyncio.Transport | None = None
        self.is_client = other is None
        self.peer_ip = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=BUFFER_MAX_BYTES)
        peer = transport.get_extra_info("peername")
        self.peer_ip = plain_address(str(peer[0])) if peer else ""
        if self.is_client:
            self._forwarder.accept(self)
            if not self.needs_proof and not self.transport.is_closing():
                self.transport.pause_reading()

    def connected_to(self, other: _Connection) -> None:
        """The engine accepted the connection: starts to forward the client's bytes."""
        self._other = other
        if self.transport is None or self.transport.is_closing() or other.transport is None:
            other.abort()
            return
        other.transport.writelines(self._buffered)
        self._buffered.clear()
        if self.has_ended:
            other.transport.write_eof()
        elif not self.is_paused:
            self.transport.resume_reading()

    def _read_proof(self, data: bytes) -> None:
        received = b"".join((*self._buffered, data))
        self._buffered = [received]
        if len(received) < PROOF_BYTES:
            return
        if not self._forwarder.is_proof(received[:PROOF_BYTES]):
            self._forwarder.reject(self)
            return
        self.needs_proof = False
        self._buffered = [self._with_key(received[PROOF_BYTES:])]
        if self.transport is not None:
            self.transport.pause_reading()
        self._forwarder.connect_to_engine(self)

    def reject_without_proof(self) -> None:
        if self.needs_proof and self.transport is not None and not self.transport.is_closing():
            self._forwarder.reject(self)

    def data_received(self, data: bytes) -> None:
        if self.needs_proof:
            self._read_proof(data)
            return
        data = self._with_key(data)
        if not data:
            return
        if self._other is not None and self._other.transport is not None:
            self._other.transport.write(data)
        elif self.is_client and self.transport is not None:
            self._buffered.append(data)
            self.transport.pause_reading()

    def _with_key(self, data: bytes) -> bytes:
        """The bytes from the client, with the engine's key in each request."""
        if self._keyed is None:
            return data
        try:
            return self._keyed.feed(data)
        except HerdError as error:
            log.warning("a connection to an engine with a key was closed: %s", error)
            self.abort()
            return b""

    def eof_received(self) -> bool:
        """Half-closes the other connection too; it may still send. When both have ended, both are closed."""
        self.has_ended = True
        other = self._other
        if self.transport is not None and not self.transport.can_write_eof():
            return False  # TLS has no half-closed connections
        if other is None:
            return self.is_client
        if other.transport is None or other.transport.is_closing():
            return False
        if other.has_ended:
            # `close` first writes what is still buffered.
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
            self._other.set_paused(True)

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.set_paused(False)

    def set_paused(self, is_paused: bool) -> None:
        self.is_paused = is_paused
        if self.transport is None or self.transport.is_closing():
            return
        if is_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forwarder.remove(self)
        other, self._other = self._other, None
        if other is None:
            return
        other.other_lost(is_clean=exc is None and self.has_ended)

    def other_lost(self, is_clean: bool) -> None:
        """The other connection is closed. A reset there is a reset here: a broken answer must not look complete."""
        self._other = None
        if self.transport is None:
            return
        if is_clean:
            self.transport.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Resets the connection. Without this option, an abort without unread data looks like a normal end."""
        if self.transport is None:
            return
        with contextlib.suppress(OSError, AttributeError):
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def listen_on_all_addresses() -> socket.socket:
    """A listening socket on all IPv4 and, if the system supports it, IPv6 addresses, on a free port."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
