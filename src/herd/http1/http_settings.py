"""Defines the limits of client connections, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    body_max_bytes: int = field(
        default=32 << 20,
        metadata={
            "env": "FLEET_MAX_BODY_BYTES",
            "help": "Maximum size of a request body in bytes; a larger one is refused with 413.",
        },
    )
    streamed_body_max_bytes: int = field(
        default=256 << 30,
        metadata={
            "env": "FLEET_MAX_BLOB_BYTES",
            "help": "Maximum size of a model file that a client uploads (POST /api/blobs) in bytes; else 413.",
        },
    )
    header_max_bytes: int = field(
        default=64 << 10,
        metadata={
            "env": "FLEET_MAX_HEADER_BYTES",
            "help": "Maximum size of a request's headers in bytes; larger ones are refused with 431.",
        },
    )
    header_timeout_s: float = field(
        default=10.0,
        metadata={
            "env": "FLEET_HEADER_TIMEOUT",
            "help": "Timeout in seconds for a client to send its request headers.",
        },
    )
    body_min_bytes_per_s: int = field(
        default=1024,
        metadata={
            "env": "FLEET_BODY_MIN_RATE",
            "help": "Minimum upload speed in bytes per second, averaged over FLEET_BODY_GRACE.",
        },
    )
    body_grace_s: float = field(
        default=10.0, metadata={"env": "FLEET_BODY_GRACE", "help": "Seconds over which the upload speed is averaged."}
    )
    uploads_max_bytes: int = field(
        default=512 << 20,
        metadata={
            "env": "FLEET_MAX_UPLOAD_BYTES",
            "help": "Maximum bytes of all request bodies being received; beyond it, uploads get 503.",
        },
    )
    connections_max: int = field(
        default=2000, metadata={"env": "FLEET_MAX_CONNECTIONS", "help": "Maximum number of client connections."}
    )
    connections_per_ip_max: int = field(
        default=100,
        metadata={
            "env": "FLEET_MAX_CONNECTIONS_PER_IP",
            "help": "Maximum number of client connections from one IPv4 address or one IPv6 network (/64).",
        },
    )
    connections_loopback_max: int = field(
        default=1000,
        metadata={
            "env": "FLEET_MAX_CONNECTIONS_LOOPBACK",
            "help": "Maximum number of client connections from this machine, where a reverse proxy may run.",
        },
    )
    connections_reserved_loopback: int = field(
        default=100,
        metadata={
            "env": "FLEET_RESERVED_CONNECTIONS_LOOPBACK",
            "help": "Connections that only this machine and paired nodes can have, at most a tenth of all.",
        },
    )
    connections_reserved_nodes: int = field(
        default=100,
        metadata={
            "env": "FLEET_RESERVED_CONNECTIONS_NODES",
            "help": "Connections that only paired nodes can have, at most a tenth of all.",
        },
    )
    idle_timeout_s: float = field(
        default=75.0,
        metadata={
            "env": "FLEET_KEEPALIVE_TIMEOUT",
            "help": "Seconds an idle client connection stays open between requests.",
        },
    )
    slow_reader_s: float = field(
        default=60.0,
        metadata={
            "env": "FLEET_SLOW_READER_TIMEOUT",
            "help": "Seconds without the client reading its answer before the connection is closed.",
        },
    )
    write_buffer_bytes: int = field(
        default=256 << 10,
        metadata={
            "env": "FLEET_WRITE_BUFFER_BYTES",
            "help": "Unsent bytes per client connection at which reading from the node pauses.",
        },
    )
    pipeline_max_bytes: int = field(
        default=64 << 10,
        metadata={
            "env": "FLEET_MAX_PIPELINE_BYTES",
            "help": "Bytes of pipelined requests to buffer; beyond it, reading from the connection pauses.",
        },
    )
    linger_s: float = field(
        default=5.0,
        metadata={
            "env": "FLEET_LINGER",
            "help": "Seconds to keep a refused client's connection open so that it can read the error.",
        },
    )
    half_close_grace_s: float = field(
        default=10.0,
        metadata={
            "env": "FLEET_HALF_CLOSE_GRACE",
            "help": "Seconds to answer a half-closed client if nothing shows whether it is gone (HTTP/1.0).",
        },
    )
