"""Main memory, and how short of it the system says it is. Knows no graphics card.

Pressure comes from what each system offers: Linux's pressure stall information (share of time in which tasks waited for
memory, Documentation/accounting/psi.rst), macOS' own level (1 normal, 2 warning, 4 critical), else what is left.
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
LEFT_WARN_SHARE = 0.08
LEFT_CRITICAL_SHARE = 0.03
MACOS_LEVELS = (("2", Pressure.WARN), ("4", Pressure.CRITICAL))
QUICK_S = 1.0


def read(place: SensorPaths) -> Mapping[str, object]:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    left = memory.available / memory.total if memory.total else 1.0
    pressure = _of_this_system(place) or by_what_is_left(left)
    # Stalls without shortage come from one greedy process group; only both together mean that the machine suffers.
    if pressure is Pressure.CRITICAL and left > 0.5:
        pressure = Pressure.WARN
    wired = int(memory._asdict().get("wired", 0))  # only macOS has it
    used = memory.total - memory.available
    return {"memory": Memory(memory.total, used, memory.available, pressure, swap.used, swap.total, wired)}


def by_what_is_left(share: float) -> Pressure:
    if share < LEFT_CRITICAL_SHARE:
        return Pressure.CRITICAL
    return Pressure.WARN if share < LEFT_WARN_SHARE else Pressure.NORMAL


def from_stalls(text: str) -> Pressure | None:
    """Linux' /proc/pressure/memory: the share of the last ten seconds in which all tasks waited at once ("full")."""
    told = re.search(r"^full avg10=([\d.]+)", text, re.MULTILINE)
    if told is None:
        return None
    stalled = float(told.group(1))
    if stalled >= STALLED_CRITICAL_PCT:
        return Pressure.CRITICAL
    return Pressure.WARN if stalled >= STALLED_WARN_PCT else Pressure.NORMAL


def from_macos(text: str) -> Pressure:
    """The number that `sysctl -n kern.memorystatus_vm_pressure_level` prints."""
    return dict(MACOS_LEVELS).get(text.strip(), Pressure.NORMAL)


def _of_this_system(place: SensorPaths) -> Pressure | None:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=QUICK_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return from_macos(done.stdout) if done.returncode == 0 else None
    try:
        return from_stalls((place.proc / "pressure" / "memory").read_text())
    except OSError:
        return None


SENSOR = Sensor("memory", read)
