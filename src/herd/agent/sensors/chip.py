"""The name of the machine's processor. Measures nothing."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Mapping

from herd.agent.sensors import Sensor, SensorPaths

QUICK_S = 1.0


def read(place: SensorPaths) -> Mapping[str, object]:
    chip = _chip(place)
    return {"chip": chip} if chip else {}


def from_cpuinfo(text: str) -> str:
    """Linux' /proc/cpuinfo: the first model name; on ARM boards there is none."""
    told = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return told.group(1).strip() if told else ""


def _chip(place: SensorPaths) -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=QUICK_S, check=False).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""
    try:
        return from_cpuinfo((place.proc / "cpuinfo").read_text())
    except OSError:
        return platform.processor()


SENSOR = Sensor("chip", read)
