"""Reads NVIDIA GPUs with the driver's library NVML."""

from __future__ import annotations

from collections.abc import Mapping

import pynvml

from herd.agent.sensors import Sensor, SensorPaths
from herd.core.state.fleet import Gpu


def read(_paths: SensorPaths) -> Mapping[str, object]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        gpus = tuple(_model_info(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()
    return {"gpus": gpus, "chip": gpus[0].name} if gpus else {}


def _model_info(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Gpu(
        name.decode() if isinstance(name, bytes) else str(name),
        int(memory.total),
        int(memory.used),
        _utilization(handle),
        _temperature(handle),
    )


def _utilization(handle: object) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None


def _temperature(handle: object) -> float | None:
    try:
        return float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    except pynvml.NVMLError:
        return None


SENSOR = Sensor("nvidia", read)
