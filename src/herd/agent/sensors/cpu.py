"""Cores, and how busy they are since the last reading. Knows no process."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import psutil

from herd.agent.sensors import Sensor, SensorPaths


def read(_place: SensorPaths) -> Mapping[str, object]:
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 0
    return {
        "cores": cores,
        "cpu_utilization": psutil.cpu_percent(interval=None),
        "arch": platform.machine(),
        "os": platform.system().lower(),
    }


SENSOR = Sensor("cpu", read)
