"""What all relays share: connections, engines, the time, the dice, and their settings. Carries no request itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from herd.coordinator.proxy.wait_comments import WaitComments
from herd.coordinator.upstream.pool import Pool
from herd.core.state.events import Event
from herd.dialects import Timestamp
from herd.engines import Engine


@dataclass(frozen=True, slots=True)
class RelaySettings:
    continuation: str = field(
        default="auto",
        metadata={
            "env": "FLEET_STREAM_CONTINUATION",
            "choices": ("auto", "off"),
            "help": "When a node dies in the middle of a stream: auto lets another write on where the engine can, off ends it.",
        },
    )
    refusal_max_bytes: int = field(
        default=64 << 10,
        metadata={"env": "FLEET_UPSTREAM_MAX_ERROR_BYTES", "help": "Largest error answer of a node that is read."},
    )
    held_max_bytes: int = field(
        default=256 << 10,
        metadata={
            "env": "FLEET_HELD_ANSWER_BYTES",
            "help": "Bytes of an answer that is not streamed that are held until it is whole; a longer one is forwarded as it comes.",
        },
    )


class Core(Protocol):
    """What a relay needs of the driver."""

    @property
    def now(self) -> Callable[[], float]: ...

    def feed(self, event: Event) -> None: ...


@dataclass(slots=True)
class RelayDependencies:
    """What all relays share."""

    driver: Core
    pool: Pool
    engines: Mapping[str, Engine]
    moment: Callable[[], Timestamp]
    settings: RelaySettings
    notes: WaitComments
    dice: Random
