"""Reads the CPU temperature, and whether heat limits the CPU's speed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

import psutil

from herd.agent.sensors import Sensor, SensorPaths

HOT_C = 90.0
COMMAND_TIMEOUT_S = 1.0
CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "acpitz")


def read(_paths: SensorPaths) -> Mapping[str, object]:
    if sys.platform == "darwin":
        return {"thermal_state": _macos_state()}
    temperature_c = hottest(_linux_temperatures())
    if temperature_c is None:
        return {"thermal_state": "unknown"}
    return {"thermal_state": "warning" if temperature_c >= HOT_C else "nominal", "temperature_c": temperature_c}


def hottest(readings: Mapping[str, list[float]]) -> float | None:
    """The highest plausible reading of the first chip that measures the CPU."""
    for chip in CPU_CHIPS:
        plausible = [value for value in readings.get(chip, []) if 0 < value < 150]
        if plausible:
            return max(plausible)
    return None


def from_pmset(text: str) -> str:
    """From the output of `pmset -g therm`: the CPU speed limit in percent, or that no warning was recorded."""
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", text)
    if limit is None:
        return "nominal" if "No thermal warning level has been recorded" in text else "unknown"
    return "warning" if int(limit.group(1)) < 100 else "nominal"


def _linux_temperatures() -> dict[str, list[float]]:
    read_sensors = vars(psutil).get("sensors_temperatures")
    if read_sensors is None:
        return {}
    try:
        return {chip: [float(reading.current) for reading in readings] for chip, readings in read_sensors().items()}
    except (OSError, ValueError):
        return {}


def _macos_state() -> str:
    try:
        done = subprocess.run(
            ["pmset", "-g", "therm"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return from_pmset(done.stdout)


SENSOR = Sensor("thermal", read)
