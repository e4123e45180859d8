"""Assigns CPU cores, starts and ends processes, and reads the CPU time and memory that they use."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

END_MAX_S = 8.0


class BenchmarkError(Exception):
    """The benchmark cannot run; the text gives the reason in one line."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the measured gateway, and the core of the stub and the load generator. None: not pinned."""

    gateway: int | None
    instruments: int | None


def cores() -> Cores:
    """The gateway gets the last core, the other programs the first one, which usually handles interrupts."""
    if sys.platform != "linux":
        raise BenchmarkError("the gateway benchmark needs Linux: its stub and its load generator are written for epoll")
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[-1], allowed[0]) if len(allowed) > 1 else Cores(None, None)


def pin(core: int | None) -> None:
    """Pins this process and the processes that it starts to one core."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})


def facts() -> dict[str, object]:
    """The machine's properties that a reader needs to judge the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time and the resident memory of a process and its children."""

    cpu_s: float
    rss_bytes: int


def usage(pid: int) -> Usage:
    root = psutil.Process(pid)
    cpu_s, rss_bytes = 0.0, 0
    for process in (root, *root.children(recursive=True)):
        times = process.cpu_times()
        cpu_s += times.user + times.system
        rss_bytes += process.memory_info().rss
    return Usage(cpu_s, rss_bytes)


@contextmanager
def running(
    argv: Sequence[str], core: int | None, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process in its own process group on one core, with its output in `log`, until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(env) if env is not None else None,
            preexec_fn=lambda: pin(core),
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM, and SIGKILL to its process group after a timeout."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_MAX_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_MAX_S)
