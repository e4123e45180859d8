"""Defines the relay's settings and the dependencies that all relays share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from herd.coordinator.proxy.missing_paths import MissingPaths
from herd.coordinator.proxy.wait_comments import WaitComments
from herd.coordinator.upstream.pool import Pool
from herd.core.state.events import Event
from herd.core.state.fleet import ModelName
from herd.core.state.request import RequestId
from herd.dialects import Timestamp
from herd.engines import Engine


@dataclass(frozen=True, slots=True)
class RelaySettings:
    continuation: str = field(
        default="auto",
        metadata={
            "env": "FLEET_STREAM_CONTINUATION",
            "choices": ("auto", "off"),
            "help": ("When a node fails mid-stream: auto continues or repeats the answer on another one, off ends it."),
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
    tool_repair: str = field(
        default="auto",
        metadata={
            "env": "FLEET_TOOL_REPAIR",
            "choices": ("auto", "off"),
            "help": (
                "Tool calls with invalid arguments: auto repairs them, and simplifies tool schemas that an engine "
                "refuses; off passes on both as they are."
            ),
        },
    )


class EventFeed(Protocol):
    """The part of the driver that a relay uses."""

    @property
    def now(self) -> Callable[[], float]: ...

    def feed(self, event: Event) -> None: ...

    def contain(self, request_id: RequestId, where: str) -> None: ...

    def reading_s(self, request_id: RequestId) -> float: ...

    def can_move_on(self, request_id: RequestId) -> bool: ...


@dataclass(slots=True, kw_only=True)
class RelayDependencies:
    driver: EventFeed
    pool: Pool
    engines: Mapping[str, Engine]
    timestamp: Callable[[], Timestamp]
    settings: RelaySettings
    wait_comments: WaitComments
    rng: Random
    prompt_factor: Callable[[ModelName], float] = lambda _: 1.0
    """By how much engines count more tokens in a prompt of this model than its size suggests."""
    missing_paths: MissingPaths = field(default_factory=MissingPaths)
