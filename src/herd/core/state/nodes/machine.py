"""Defines what a report contains about the machine itself: memory, disk, graphics cards, and its owner's habits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Pressure(Enum):
    """Memory pressure as reported by the operating system."""

    NORMAL = "normal"
    WARN = "warn"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    total_bytes: int
    used_bytes: int
    available_bytes: int
    pressure: Pressure = Pressure.NORMAL
    swap_used_bytes: int = 0
    swap_total_bytes: int = 0
    wired_bytes: int = 0
    compressed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    total_bytes: int
    used_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card with memory of its own."""

    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The memory that models may use now, from an agent that learns in which hours the owner uses the machine.

    `ceiling_bytes` is the memory models may take, `score` 0..1, `trend` is "rising", "stable" or "falling".
    """

    mode: str
    ceiling_bytes: int
    score: float
    trend: str = "stable"
    reason: str = ""
    paused: bool = False
    override_active: bool = False
    learning_confidence: float = 0.0
    days_observed: int = 0
    week: tuple[float | None, ...] | None = None
    """Availability of each hour of the week, 0 to 1, from Monday 0:00 in local time; None: not observed."""
