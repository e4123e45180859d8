"""Reads main memory, swap and memory pressure.

The pressure comes from the system: Linux's pressure stall information (share of time in which tasks waited for memory,
Documentation/accounting/psi.rst), macOS' level (1 normal, 2 warning, 4 critical), else the share of available memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

import psutil

from herd.agent.sensors import Sensor, SensorPaths
from herd.core.state.fleet import Memory, Pressure

STALLED_WARN_PCT = 10.0
STALLED_CRITICAL_PCT = 30.0
AVAILABLE_WARN_SHARE = 0.08
AVAILABLE_CRITICAL_SHARE = 0.03
MACOS_LEVELS = (("2", Pressure.WARN), ("4", Pressure.CRITICAL))
COMMAND_TIMEOUT_S = 1.0


def read(paths: SensorPaths) -> Mapping[str, object]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    available = memory.available / memory.total if memory.total else 1.0
    pressure = _from_system(paths) or from_available(available)
    # Stalls while memory is available come from one process group with a limit, not from the whole machine.
    if pressure is Pressure.CRITICAL and available > 0.5:
        pressure = Pressure.WARN
    wired = int(memory._asdict().get("wired", 0))  # only macOS has it
    used = memory.total - memory.available
    return {
        "memory": Memory(
            total_bytes=memory.total,
            used_bytes=used,
            available_bytes=memory.available,
            pressure=pressure,
            swap_used_bytes=swap.used,
            swap_total_bytes=swap.total,
            wired_bytes=wired,
        )
    }


def from_available(share: float) -> Pressure:
    if share < AVAILABLE_CRITICAL_SHARE:
        return Pressure.CRITICAL
    return Pressure.WARN if share < AVAILABLE_WARN_SHARE else Pressure.NORMAL


def from_stall_information(text: str) -> Pressure | None:
    """From Linux' /proc/pressure/memory: the share of the last ten seconds in which all tasks waited ("full")."""
    match = re.search(r"^full avg10=([\d.]+)", text, re.MULTILINE)
    if match is None:
        return None
    stalled = float(match.group(1))
    if stalled >= STALLED_CRITICAL_PCT:
        return Pressure.CRITICAL
    return Pressure.WARN if stalled >= STALLED_WARN_PCT else Pressure.NORMAL


def from_macos(text: str) -> Pressure:
    """From the number that `sysctl -n kern.memorystatus_vm_pressure_level` prints."""
    return dict(MACOS_LEVELS).get(text.strip(), Pressure.NORMAL)


def _from_system(paths: SensorPaths) -> Pressure | None:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return from_macos(done.stdout) if done.returncode == 0 else None
    try:
        return from_stall_information((paths.proc / "pressure" / "memory").read_text())
    except OSError:
        return None


SENSOR = Sensor("memory", read)
