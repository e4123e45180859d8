"""Sets TCP options on connections: no delay for small writes, and detection of peers that have disappeared."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Final


def _tcp(*options: tuple[str, int]) -> Iterable[tuple[int, int]]:
    """Yields the options that this platform supports."""
    for name, value in options:
        number = getattr(socket, name, None)
        if number is not None:
            yield number, value


# A disconnected peer is detected after 3 x 15 s without data, or 30 s after sent data was not acknowledged.
_TCP_OPTIONS: Final = tuple(
    _tcp(
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPALIVE", 15),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 30_000),
    )
)


def set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for number, value in _TCP_OPTIONS:
        sock.setsockopt(socket.IPPROTO_TCP, number, value)


def reset_on_close(sock: socket.socket, is_on: bool) -> None:
    """Whether the system resets the connection when it is closed, also by the end of this process."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", is_on, 0))
