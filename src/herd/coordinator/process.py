"""Runs the coordinator as a process: starts it, waits for SIGTERM or Ctrl-C, then drains and closes it."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable

from herd.coordinator.app import Coordinator
from herd.coordinator.settings import Settings
from herd.coordinator.settings_store import SettingsStore
from herd.stop_signals import stop_signals

log = logging.getLogger("herd")

GC_ALLOCATIONS = 20_000
"""Net new objects between two garbage collections (Python 3.11: 700). A collection pauses all requests."""
SWITCH_INTERVAL_S = 0.0002
"""The time after which a busy thread must yield the interpreter (Python's default: 5 ms)."""


async def run(
    settings: Settings, on_start: Callable[[Coordinator, int], None], settings_store: SettingsStore | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C, then drains. A second signal ends the process at once.

    Calls `on_start(coordinator, port)` once the coordinator listens. Raises what `Coordinator.start` raises.
    """
    coordinator = Coordinator(settings, asyncio.get_running_loop(), settings_store)
    try:
        port = await coordinator.start()
        _tune_interpreter()
        signals = stop_signals(coordinator.loop)
        on_start(coordinator, port)
        await signals.get()
        log.info("draining", extra={"running": len(coordinator.driver.runs)})
        drain, second_signal = asyncio.ensure_future(coordinator.drain()), asyncio.ensure_future(signals.get())
        await asyncio.wait({drain, second_signal}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (drain, second_signal):
            waiting.cancel()
    finally:
        await coordinator.close()


def _tune_interpreter() -> None:
    """Keeps garbage collection and thread switches from delaying requests.

    Objects built at the start live as long as the process, so the collector skips them. Requests create few
    reference cycles. The store's writer thread may hold the interpreter for at most 0.2 ms while the loop waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
