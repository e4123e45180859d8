"""Connections in memory between the coordinator and the other machines: bytes, half-closes, resets, silence.

    coordinator's protocol <── SimTransport ──> Peer <── the engine or the client

A `Peer` is the other end. What it sends arrives after `LATENCY_S`, in pieces that may begin and end at any byte.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from sim.boundary.virtual_time import Clock, VirtualLoop

LATENCY_S = 0.0005
KEEPALIVE_S = 45.0
"""After this time the system notices that the other machine is gone."""
_ESTABLISHED, _CLOSED, _CLOSE_WAIT = 1, 7, 8
_PIECES_MAX = 6


class PeerOwner:
    """Uses the remote end of a connection; the default reactions do nothing."""

    def on_data(self, _peer: Peer, _data: bytes) -> None:
        """Bytes of the coordinator."""

    def on_eof(self, _peer: Peer) -> None:
        """The coordinator will send nothing more."""

    def on_lost(self, _peer: Peer) -> None:
        """The coordinator has closed or reset the connection, or its process is dead. Called once."""


@dataclass(kw_only=True)
class Splitting:
    """How the bytes of a peer are cut into reads: 0 keeps them whole, 1 cuts each into pieces."""

    rng: Random
    share: float = 0.0

    def pieces(self, data: bytes) -> list[bytes]:
        if len(data) < 2 or self.rng.random() >= self.share:
            return [data]
        cuts = sorted({0, len(data), *(self.rng.randrange(len(data)) for _ in range(_PIECES_MAX - 1))})
        return [data[start:end] for start, end in itertools.pairwise(cuts)]


class SimSocket:
    """What the coordinator asks of a socket: options, and the state of TCP."""

    def __init__(self) -> None:
        self.state = _ESTABLISHED
        self.resets_on_close = False

    def setsockopt(self, _level: int, option: int, value: int | bytes) -> None:
        if option == socket.SO_LINGER and isinstance(value, bytes):
            self.resets_on_close = bool(struct.unpack("ii", value)[0])

    def getsockopt(self, _level: int, _option: int, _size: int = 0) -> bytes:
        return bytes([self.state])


class SimTransport(asyncio.Transport):
    """The coordinator's end of a connection."""

    def __init__(self, clock: Clock, loop: VirtualLoop, protocol: asyncio.Protocol, peer: Peer, address: str) -> None:
        super().__init__({"socket": SimSocket(), "peername": (address, 40000), "sslcontext": None})
        self._clock, self._loop, self._peer = clock, loop, peer
        self.protocol = protocol
        self._is_closing = self._is_lost = self._has_sent_eof = self._is_reading_paused = False
        self._is_writing_paused = False
        self._unread: list[bytes | None] = []
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._high_bytes, self._low_bytes = 64 << 10, 16 << 10

    @property
    def socket(self) -> SimSocket:
        found: SimSocket = self.get_extra_info("socket")
        return found

    # --- what a protocol calls ---

    def write(self, data: Any) -> None:
        if self._is_closing or self._is_lost or self._has_sent_eof:
            return
        if self._peer.is_reading and not self._unsent:
            self._peer.receive(bytes(data))
            return
        self._unsent.append(bytes(data))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > self._high_bytes and not self._is_writing_paused:
            self._is_writing_paused = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        if not (self._is_closing or self._has_sent_eof):
            self._has_sent_eof = True
            if not self._unsent:
                self._peer.receive(None)

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if not self._unsent:
            self._finish()

    def abort(self) -> None:
        if not self._is_lost:
            self._is_closing = True
            self._peer.lose()
            self._lose(None)

    def is_closing(self) -> bool:
        return self._is_closing or self._is_lost

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._clock.at(self._clock.now, self._loop, self._read_on)

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_bytes = self._high_bytes if high is None else high
        self._low_bytes = self._low_bytes if low is None else low

    # --- what the peer causes, on the process's loop ---

    def deliver(self, data: bytes | None) -> None:
        """Bytes of the peer, or its end (None)."""
        if self._is_lost or self._is_closing:
            return
        if self._is_reading_paused:
            self._unread.append(data)
        elif data is not None:
            self.protocol.data_received(data)
        else:
            self.socket.state = _CLOSE_WAIT
            if not self.protocol.eof_received():
                self.close()

    def drain(self) -> None:
        """The peer reads again."""
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        for data in unsent:
            self._peer.receive(data)
        if self._is_closing:
            self._finish()
            return
        if self._has_sent_eof and unsent:
            self._peer.receive(None)
        if self._is_writing_paused:
            self._is_writing_paused = False
            self.protocol.resume_writing()

    def reset(self, error: Exception) -> None:
        """The peer has reset the connection, or the system has noticed that it is gone."""
        if not self._is_lost:
            self.socket.state = _CLOSED
            self._is_closing = True
            self._lose(error)

    def _read_on(self) -> None:
        while self._unread and not self._is_reading_paused and not self._is_lost:
            self.deliver(self._unread.pop(0))

    def _finish(self) -> None:
        if self.socket.resets_on_close or self._unread:
            self._peer.lose()
        else:
            self._peer.receive(None)
            self._peer.lose_after_eof()
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        self._is_lost = True
        self._unsent, self._unsent_bytes = [], 0
        self._loop.call_soon(self.protocol.connection_lost, error)


class Peer:
    """The other end of one connection."""

    def __init__(self, clock: Clock, owner: PeerOwner, splitting: Splitting, is_reachable: Callable[[], bool]) -> None:
        """Nothing passes in either direction while the machine is not reachable."""
        self.transport: SimTransport | None = None
        self.sent_bytes = 0
        self.is_lost = False
        self._clock, self._owner, self._splitting = clock, owner, splitting
        self._is_reachable = is_reachable
        self._loop: VirtualLoop | None = None
        self._is_reading = True
        self._is_closed = False

    def attach(self, loop: VirtualLoop, protocol: asyncio.Protocol, address: str) -> None:
        """Connects the peer to a protocol of the coordinator's process; called on its loop."""
        self._loop = loop
        self.transport = SimTransport(self._clock, loop, protocol, self, address)
        protocol.connection_made(self.transport)

    @property
    def is_reading(self) -> bool:
        return self._is_reading

    # --- what its owner calls ---

    def send(self, data: bytes) -> None:
        if self.is_lost or not self._is_reachable():
            return
        self.sent_bytes += len(data)
        for piece in self._splitting.pieces(data):
            self._deliver(piece)

    def send_eof(self) -> None:
        """Closes the sending direction only."""
        if not self.is_lost and self._is_reachable():
            self._deliver(None)

    def close(self) -> None:
        """Closes both directions: whatever arrives later is answered with a reset."""
        self.send_eof()
        self._is_closed = True

    def reset(self) -> None:
        self.is_lost = True
        if self._is_reachable():
            self._plan(lambda transport: transport.reset(ConnectionResetError("reset by peer")))

    def vanish(self) -> None:
        """The machine disappears silently; the coordinator's system notices it much later."""
        self.is_lost = True
        error = TimeoutError("the connection timed out")
        self._plan(lambda transport: transport.reset(error), KEEPALIVE_S)

    def pause(self) -> None:
        """Stops reading until `resume`."""
        self._is_reading = False

    def resume(self) -> None:
        self._is_reading = True
        if not self.is_lost:
            self._plan(lambda transport: transport.drain())

    # --- what the transport calls ---

    def receive(self, data: bytes | None) -> None:
        self._clock.later(LATENCY_S, lambda: self._take(data))

    def lose(self) -> None:
        """The coordinator has reset the connection."""
        self._clock.later(LATENCY_S, self._lose)

    def lose_after_eof(self) -> None:
        self._clock.later(LATENCY_S, self._lose)

    def _take(self, data: bytes | None) -> None:
        if self.is_lost or not self._is_reachable():
            return
        if self._is_closed:
            if data is not None:
                self.reset()
        elif data is None:
            self._owner.on_eof(self)
        else:
            self._owner.on_data(self, data)

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._owner.on_lost(self)

    def _deliver(self, data: bytes | None) -> None:
        self._plan(lambda transport: transport.deliver(data))

    def _plan(self, action: Callable[[SimTransport], None], delay_s: float = LATENCY_S) -> None:
        transport, loop = self.transport, self._loop
        if transport is not None and loop is not None:
            self._clock.at(self._clock.now + delay_s, loop, lambda: action(transport))
