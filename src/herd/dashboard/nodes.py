"""A node as a card: its state in a word with the reason, what it has and what it runs. Decides no routing.

Used by the overview and by live messages. Memory is what models may fill: graphics memory where there is some.
"""

from __future__ import annotations

from msgspec import Struct

STATES = ("online", "busy", "degraded", "yielding", "asleep", "waking", "draining", "gone")
"""A node is in exactly one; the card's `why` says what made it so."""


class MemoryBar(Struct, frozen=True):
    """`ceiling_bytes` is what models may fill: less than `total_bytes` where the owner keeps some."""

    total_bytes: int
    used_bytes: int
    ceiling_bytes: int
    pressure: str
    is_graphics: bool


class Card(Struct, frozen=True):
    """A graphics card."""

    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization_pct: float | None
    temperature_c: float | None


class LoadedModel(Struct, frozen=True):
    """A model in memory. `unload_in_s` is None where the engine keeps it or did not say; `context_tokens` is its window."""

    name: str
    engine: str
    size_bytes: int
    context_tokens: int | None
    unload_in_s: float | None
    running: int
    pending: int
    slots: int


class Lent(Struct, frozen=True):
    """What the owner lends now, on machines that learn it; `score` 0..1."""

    mode: str
    score: float
    trend: str
    reason: str
    confidence: float
    days_observed: int
    is_overridden: bool


class NodeCard(Struct, frozen=True):
    """`why` is a sentence for `state`. `availability` has 168 values 0..1, hour by hour from Monday 0:00 in the node's own
    time, None for hours it has not seen; the whole is None on machines that do not learn."""

    node_id: str
    state: str
    why: str
    heard_s: float
    address: str
    os: str
    arch: str
    chip: str
    agent_version: str
    engines: tuple[str, ...]
    cpu_pct: float
    memory: MemoryBar
    gpus: tuple[Card, ...]
    disk_free_bytes: int | None
    disk_total_bytes: int | None
    thermal: str
    temperature_c: float | None
    running: int
    pending: int
    slots: int
    tokens_per_s: float
    models: tuple[LoadedModel, ...]
    models_on_disk: int
    loading: tuple[str, ...]
    lent: Lent | None
    availability: tuple[float | None, ...] | None
