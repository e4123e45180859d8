"""Reads the free space of the disk that contains the models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from herd.agent.sensors import Sensor, SensorPaths
from herd.core.state.fleet import Disk


def read(paths: SensorPaths) -> Mapping[str, object]:
    try:
        usage = psutil.disk_usage(str(models_folder(paths.models, os.environ.get("OLLAMA_MODELS", ""))))
    except OSError:
        return {}
    return {"disk": Disk(usage.total, usage.used, usage.free)}


def models_folder(home: Path, configured: str) -> Path:
    """Ollama's model folder: the first that exists of its setting and the default folders, else the home folder."""
    usual = [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    candidates = [Path(configured), *usual] if configured else usual
    return next((path for path in candidates if path.is_dir()), home)


SENSOR = Sensor("disk", read)
