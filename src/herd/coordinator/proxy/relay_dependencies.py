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
            "help": (
                "When a node fails mid-stream: auto continues on another node if the engine can, off ends the stream."
            ),
        },
    )
    refusal_max_bytes: int = field(
        default=64 << 10,
        metadata={"env": "FLEET_UPSTREAM_MAX_ERROR_BYTES", "help": "Maximum bytes to read of a node's error response."},
    )
    held_max_bytes: int = field(
        default=256 << 10,
        metadata={
            "env": "FLEET_HELD_ANSWER_BYTES",
            "help": (
                "Bytes of a non-streamed answer to buffer until it is complete; longer "
                "answers are forwarded as they arrive."
            ),
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
