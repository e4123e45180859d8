"""Receives the signals that ask a process to stop, on every operating system."""

from __future__ import annotations

import asyncio
import signal
import sys


def stop_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Queue[int]:
    """A queue of the numbers of the received SIGTERM and SIGINT signals."""
    received: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        if sys.platform == "win32":
            signal.signal(number, lambda n, _frame: loop.call_soon_threadsafe(received.put_nowait, n))
        else:
            loop.add_signal_handler(number, received.put_nowait, int(number))
    return received
