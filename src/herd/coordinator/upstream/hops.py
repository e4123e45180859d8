"""Marks requests to nodes, so that a coordinator recognises a request that comes back to it.

A node whose engine is a router that forwards to this coordinator, or the coordinator itself, would send each request
around until a timeout. `X-Fleet-Hop` has the id of the coordinator's process and the URL that it sent the request to.
It passes through other coordinators of a chain.
"""

from __future__ import annotations

from herd.errors import Refusal

HOP_HEADER = b"x-fleet-hop"


def hop_line(hop: str, url: str) -> bytes:
    """The header line of requests to this URL; empty without an id."""
    return f"X-Fleet-Hop: {hop}; engine={url}\r\n".encode("ascii") if hop else b""


def loop_refusal(hop: str, value: bytes) -> Refusal | None:
    """508 if this header was written by the coordinator with this id."""
    sender, _, url = value.decode("latin-1").partition("; engine=")
    if not hop or sender != hop:
        return None
    message = (
        f"this request came back to the coordinator that sent it: {url} is announced as an engine and leads to this "
        "coordinator; remove that URL from the settings of its agent (FLEET_NODE_ENGINES, FLEET_NODE_ENGINE_URL or "
        "FLEET_NODE_OLLAMA_HOST)"
    )
    return Refusal(508, "loop_detected", message)
