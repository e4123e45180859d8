"""Reads AMD GPUs from the files of the kernel driver amdgpu; integrated GPUs are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from herd.agent.sensors import Sensor, SensorPaths
from herd.core.state.fleet import Gpu

MEMORY_MIN_BYTES = 2_000_000_000
"""A GPU with less memory is integrated: its models are in main memory."""


def read(paths: SensorPaths) -> Mapping[str, object]:
    cards = sorted((paths.sys / "class" / "drm").glob("card[0-9]*/device"))
    gpus = tuple(gpu for card in cards if (gpu := _card(card)) is not None)
    return {"gpus": gpus} if gpus else {}


def _card(device: Path) -> Gpu | None:
    total = _number(device / "mem_info_vram_total")
    if total is None or total < MEMORY_MIN_BYTES:
        return None
    busy = _number(device / "gpu_busy_percent")
    return Gpu(
        _name(device),
        total,
        _number(device / "mem_info_vram_used") or 0,
        None if busy is None else float(busy),
        _temperature(device),
    )


def _name(device: Path) -> str:
    try:
        return "AMD Radeon " + (device / "product_name").read_text().strip()
    except OSError:
        return "AMD Radeon"


def _temperature(device: Path) -> float | None:
    readings = [
        value for path in sorted(device.glob("hwmon/hwmon*/temp1_input")) if (value := _number(path)) is not None
    ]
    return readings[0] / 1000.0 if readings else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


SENSOR = Sensor("amd", read)
