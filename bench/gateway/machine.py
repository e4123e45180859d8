"""Which cores are used by whom, and what a process takes of them. Starts and ends processes; measures no gateway."""

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


class Trouble(Exception):
    """What keeps the benchmark from running, in one line."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the gateway that is measured, and that of everything which measures. None: not pinned."""

    gateway: int | None
    instruments: int | None


def cores() -> Cores:
    """The last core for the gateway, the first for the rest: interrupts usually come to the first."""
    if sys.platform != "linux":
        raise Trouble("the gateway benchmark needs Linux: its stub and its load generator are written for epoll")
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[-1], allowed[0]) if len(allowed) > 1 else Cores(None, None)


def pin(core: int | None) -> None:
    """This process, and what it starts, to one core."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})


def facts() -> dict[str, object]:
    """What a figure means nothing without."""
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
    """What a process and its children took so far: seconds of CPU, bytes in memory."""

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
    """A process in a group of its own on one core; its output goes to `log`. It has ended when the block is left."""
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
    """Asked first, then made to. The group is the process's own, so nobody else is hit."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_MAX_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_MAX_S)
