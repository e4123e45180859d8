"""Room on the disk that holds the models. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from herd.agent.sensors import Sensor, SensorPaths
from herd.core.state.fleet import Disk


def read(place: SensorPaths) -> Mapping[str, object]:
    try:
        usage = psutil.disk_usage(str(models_folder(place.models, os.environ.get("OLLAMA_MODELS", ""))))
    except OSError:
        return {}
    return {"disk": Disk(usage.total, usage.used, usage.free)}


def models_folder(home: Path, told: str) -> Path:
    """Where Ollama keeps models: its setting, its usual folders, else the home folder; the first that exists."""
    usual = [home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    candidates = [Path(told), *usual] if told else usual
    return next((path for path in candidates if path.is_dir()), home)


SENSOR = Sensor("disk", read)
