"""Distinguishes a client that has closed only its sending direction, and waits for its answer, from one that is gone.

TCP reports both in the same way. Only bytes that are sent to the client show it: if it is gone, its system resets the
connection. Such bytes are the next piece of the answer, or a probe (`HttpExchange.probe`) that has no meaning.
"""

from __future__ import annotations

import asyncio
from typing import Final

from herd.errors import Refusal
from herd.http1.exchange import HttpExchange
from herd.http1.tcp.state import is_gone

HALF_CLOSED_TOO_LONG: Final = Refusal(
    408, "request_timeout", "the connection is half-closed and the answer takes too long; use HTTP/1.1 or leave it open"
)

_FIRST_CHECK_S: Final = 0.02
_LAST_CHECK_S: Final = 1.0
_PROBES_MAX: Final = 2


class HalfClose:
    """One client that has sent its last byte. `sent_bytes` counts what was written to its connection until now."""

    __slots__ = ("_loop", "_next_check_s", "_probes", "_sent_bytes", "_since", "_transport")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, since: float, sent_bytes: int
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._since = since
        self._sent_bytes = sent_bytes
        self._probes = 0
        self._next_check_s = _FIRST_CHECK_S

    def probe(self, exchange: HttpExchange) -> None:
        """Sends a probe if the answer allows it here. A client that is gone replies with a reset."""
        self._probes += 1
        exchange.probe()

    def check(self) -> None:
        """Closes the connection if the client is gone; otherwise checks again, until `sweep` checks often enough."""
        if self._transport.is_closing():
            return
        if is_gone(self._transport.get_extra_info("socket")):
            self._transport.abort()
        elif self._next_check_s < _LAST_CHECK_S:
            self._loop.call_later(self._next_check_s, self.check)
            self._next_check_s *= 2

    def sweep(self, now: float, sent_bytes: int, exchange: HttpExchange, grace_s: float) -> bool:
        """Checks once more. True if the grace is over and nothing was sent that would show a client that is gone."""
        state = is_gone(self._transport.get_extra_info("socket"))
        if state:
            self._transport.abort()
            return False
        if state is None and self._probes < _PROBES_MAX:
            # This system does not report the state: a second write fails after a reset.
            self.probe(exchange)
        return sent_bytes == self._sent_bytes and now - self._since > grace_s
