"""The contract of a sensor: a function that reads one aspect of this machine. One sensor a file.

A sensor never fails: where its source is missing it returns what it knows, at worst nothing. It needs no special right
and may block for at most a second, since all are read in a thread beside the loop. It defines `SENSOR = Sensor(name, read)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SensorPaths:
    """Where to look: the folder whose disk counts, and roots that tests replace."""

    models: Path = field(default_factory=Path.home)
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


@dataclass(frozen=True, slots=True)
class Sensor:
    """`read(place)` returns fields of `core.fleet.Report` by name, those it can tell."""

    name: str
    read: Callable[[SensorPaths], Mapping[str, object]]
