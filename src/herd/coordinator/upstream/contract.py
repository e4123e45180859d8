"""Defines the settings of connections to nodes, and the interface that receives a node's response."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from herd.core.state.request import FailureKind
from herd.http1.contract import Header


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    connect_timeout_s: float = field(
        default=3.0, metadata={"env": "FLEET_CONNECT_TIMEOUT", "help": "Timeout in seconds for connecting to a node."}
    )
    idle_max: int = field(
        default=256,
        metadata={
            "env": "FLEET_UPSTREAM_IDLE_CONNECTIONS",
            "help": "Maximum number of idle connections to keep open to each node.",
        },
    )
    idle_timeout_s: float = field(
        default=30.0,
        metadata={"env": "FLEET_UPSTREAM_IDLE_TIMEOUT", "help": "Seconds to keep an idle connection to a node open."},
    )
    stall_timeout_s: float = field(
        default=120.0,
        metadata={
            "env": "FLEET_STALL_TIMEOUT",
            "help": (
                "Seconds without data from a node, in the middle of an answer, before the attempt fails; longer "
                "while a tool call, structured output or thinking may take time (FLEET_SILENCE_MAX)."
            ),
        },
    )
    header_max_bytes: int = field(
        default=64 << 10,
        metadata={
            "env": "FLEET_UPSTREAM_MAX_HEADER_BYTES",
            "help": "Maximum size of a node's response headers in bytes.",
        },
    )
    headers_max: int = field(
        default=128,
        metadata={"env": "FLEET_UPSTREAM_MAX_HEADERS", "help": "Maximum number of headers in a node's response."},
    )


class UpstreamSink(Protocol):
    """Receives one response. The last call is `on_end` or `on_error`, exactly once; none follows `cancel()`."""

    def on_head(self, status: int, headers: list[Header]) -> None:
        """The final response head (never 1xx); header names in lower case."""

    def on_body(self, data: bytes) -> None:
        """Body bytes without framing: at most one call for each read from the socket."""

    def on_end(self) -> None:
        """The body is complete as far as HTTP can show (by length, last chunk, or the close of an unframed body)."""

    def on_error(self, kind: FailureKind, detail: str) -> None:
        """CONNECT, CLOSED, RESET, GARBAGE or STALLED. A part of the body may have been passed on before."""
