"""Defines the contract of a sensor: a function that reads one aspect of this machine, one sensor in each file.

A sensor does not raise: it leaves out values that it cannot read. It needs no special permissions. It may block for at
most one second, because each sensor runs in its own thread. Its file defines `SENSOR = Sensor(name, read)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SensorPaths:
    """The folder whose disk is measured, and the system folders, which tests replace."""

    models: Path = field(default_factory=Path.home)
    sys: Path = Path("/sys")
    proc: Path = Path("/proc")


@dataclass(frozen=True, slots=True)
class Sensor:
    """`read(paths)` returns the values that it can read, by the field names of `core.state.fleet.Report`."""

    name: str
    read: Callable[[SensorPaths], Mapping[str, object]]
