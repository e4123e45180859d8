"""Checks single values of a heartbeat against their limits."""

from __future__ import annotations

import math
import re
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from herd.addresses import bracketed
from herd.agent_protocol.heartbeat_json import GIB
from herd.errors import HerdError

NAME_MAX = 256
BYTES_MAX = 1 << 50
"""A petabyte: more memory or disk than any node has."""
BANDWIDTH_MAX_GBPS = 100_000.0
LOOPBACK = "127.0.0.1"
CERTIFICATE_SHA256 = re.compile(r"[0-9a-f]{64}")
Part = TypeVar("Part")


class BadHeartbeat(HerdError):
    """The heartbeat is invalid; it is ignored completely."""

    status = 422
    code = "bad_heartbeat"


def part(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Part], field: str) -> Part:
    """A part of the heartbeat that is not decoded with the rest."""
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadHeartbeat(f"the heartbeat cannot be read: {field}: {error}") from None


def at_most(count: int, limit: int, field: str) -> None:
    if count > limit:
        raise BadHeartbeat(f"{field}: at most {limit}, not {count}")


def text(value: str, field: str) -> str:
    if len(value) > NAME_MAX:
        raise BadHeartbeat(f"{field}: longer than {NAME_MAX} characters")
    # Nearly every text is printable: the loop below takes a hundred times as long.
    return value if value.isprintable() else "".join(c for c in value if c.isprintable())


def name(value: str, field: str) -> str:
    if not value or not value.isprintable() or len(value) > NAME_MAX:
        raise BadHeartbeat(f"{field}: must be 1 to {NAME_MAX} printable characters")
    return value


def integer(value: int | None, field: str, limit: int = BYTES_MAX) -> int:
    if value is None:
        return 0
    if not 0 <= value <= limit:
        raise BadHeartbeat(f"{field}: must be between 0 and {limit}")
    return value


def optional(value: int | None, field: str, limit: int = BYTES_MAX) -> int | None:
    return None if value is None else integer(value, field, limit)


def number(value: float | None, field: str, limit: float) -> float:
    if value is None:
        return 0.0
    if not math.isfinite(value) or not 0.0 <= value <= limit:
        raise BadHeartbeat(f"{field}: must be between 0 and {limit:g}")
    return value


def bandwidth(value: float | None) -> float | None:
    return number(value, "memory_bandwidth_gbps", BANDWIDTH_MAX_GBPS) or None if value is not None else None


def temperature(value: float | None) -> float | None:
    if value is None or (math.isfinite(value) and -100.0 <= value <= 1000.0):
        return value
    raise BadHeartbeat("temperature_c: must be between -100 and 1000")


def gigabytes(value: float, field: str) -> int:
    return int(number(value, field, BYTES_MAX / GIB) * GIB)


def address(url: str, source_ip: str) -> str:
    """The URL of an engine: its announced port at the address that sent the heartbeat. Raises `BadHeartbeat`.

    The announced host is ignored, so that a node cannot make the coordinator connect to another machine.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadHeartbeat(f"the URL of an engine is invalid: {error}") from None
    is_pinned = parts.scheme == "https" and CERTIFICATE_SHA256.fullmatch(parts.fragment) is not None
    if (
        not (is_pinned or parts.scheme == "http")
        or not parts.hostname
        or parts.username is not None
        or len(url) > NAME_MAX
    ):
        raise BadHeartbeat(
            "the URL of an engine must be http://host:port, or https://host:port#SHA256 of its certificate"
        )
    host = bracketed(source_ip or LOOPBACK)
    return f"https://{host}:{port or 443}#{parts.fragment}" if is_pinned else f"http://{host}:{port or 80}"
