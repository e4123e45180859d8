"""Reads the name of the machine's CPU."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Mapping

from herd.agent.sensors import Sensor, SensorPaths

COMMAND_TIMEOUT_S = 1.0


def read(paths: SensorPaths) -> Mapping[str, object]:
    chip = _chip(paths)
    return {"chip": chip} if chip else {}


def from_cpuinfo(text: str) -> str:
    """The first model name in Linux' /proc/cpuinfo; ARM boards have none."""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _chip(paths: SensorPaths) -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
            ).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""
    try:
        return from_cpuinfo((paths.proc / "cpuinfo").read_text())
    except OSError:
        return platform.processor()


SENSOR = Sensor("chip", read)
