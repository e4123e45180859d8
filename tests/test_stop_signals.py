"""Tests in a process of its own that signals to stop are received, and that the process decides what to do."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
from herd.stop_signals import stop_signals

async def main():
    signals = stop_signals(asyncio.get_running_loop())
    print("ready", flush=True)
    for _ in range(2):
        print(await signals.get(), flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process that is sent SIGTERM")
def test_both_signals_are_received_in_order_and_end_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            assert process.stdout.readline() == f"{int(number)}\n"
        assert process.wait(30) == 0
