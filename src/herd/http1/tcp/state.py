"""Reads the address of a TCP connection's client, and whether the client has closed it."""

from __future__ import annotations

import socket
import sys
from typing import Final

_CLOSE_WAIT: Final = 8
_CLOSED: Final = 7


def peer_ip(peer: object) -> str:
    """The address in a socket's peer name; empty if there is none."""
    if not isinstance(peer, tuple) or not peer:
        return ""
    return str(peer[0]).removeprefix("::ffff:")


def has_closed(sock: socket.socket) -> bool:
    """Whether the client has closed its direction, or the connection; only Linux reports this."""
    return _state(sock) in (_CLOSE_WAIT, _CLOSED)


def is_gone(sock: socket.socket) -> bool | None:
    """Whether the connection has ended in both directions; None if the system does not report it."""
    state = _state(sock)
    return state == _CLOSED if state else None


def _state(sock: socket.socket) -> int:
    """The state in Linux's numbers; 0 if the system does not report it."""
    if sys.platform != "linux":
        return 0
    try:
        return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except (OSError, IndexError):
        return 0
