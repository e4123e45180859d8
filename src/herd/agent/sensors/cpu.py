"""Reads the number of CPU cores, the CPU use since the last reading, the architecture and the operating system."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import psutil

from herd.agent.sensors import Sensor, SensorPaths


def read(_paths: SensorPaths) -> Mapping[str, object]:
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 0
    return {
        "cores": cores,
        "cpu_utilization": psutil.cpu_percent(interval=None),
        "arch": platform.machine(),
        "os": platform.system().lower(),
    }


SENSOR = Sensor("cpu", read)
