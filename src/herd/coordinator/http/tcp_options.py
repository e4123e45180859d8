"""What is asked of the kernel for each connection: no delay, and to be told of peers that vanished. Knows no protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final


def _tcp(*options: tuple[str, int]) -> Iterable[tuple[int, int]]:
    """Those of the options that this platform has."""
    for name, value in options:
        number = getattr(socket, name, None)
        if number is not None:
            yield number, value


# A cable that was pulled is noticed within 15 s x 3 of silence, or 30 s after what was sent found no taker.
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
    """No delay for small writes, and the kernel tells of peers that vanished."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for number, value in _TCP_OPTIONS:
        sock.setsockopt(socket.IPPROTO_TCP, number, value)
