"""Pretends to be many nodes: builds their heartbeats, and sends them to a coordinator from addresses of their own."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

import herd.engines
from herd.agent_protocol import heartbeat_encode
from herd.core.state.fleet import GB, EngineEndpoint, Loaded, Memory, ModelInfo, ModelName, NodeId, Report, canonical
from herd.discover import discover
from herd.engines import Engine

MODEL = "shared"
"""The model that every node has in memory."""
SLOTS = 4
ABILITIES = {engine.kind: engine.abilities for engine in discover(herd.engines, Engine, "ENGINE")}


def report_of(number: int, models: int) -> Report:
    """A node with one model in memory and `models - 1` others on disk; every node is a little different."""
    endpoint = EngineEndpoint("ollama", "http://127.0.0.1:11434", "0.32.15", SLOTS, abilities=ABILITIES["ollama"])
    names = [MODEL, *(f"model-{index}:{1 + (number + index) % 9}b" for index in range(models - 1))]
    infos: dict[ModelName, ModelInfo] = {
        canonical(name): ModelInfo(
            name=name,
            engine=endpoint,
            size_bytes=4 * GB,
            digest=f"{hash((name, index)) & (1 << 128) - 1:064x}",
            family="llama",
            parameters="7B",
            quantization="Q4_K_M",
            context_max_tokens=32768,
            capabilities=frozenset(("completion", "tools")),
            loaded=Loaded(5 * GB, 8192) if not index else None,
        )
        for index, name in enumerate(names)
    }
    used = (8 + number % 16) * GB
    return Report(
        node_id=NodeId(f"node-{number:04}"),
        boot_id=f"boot-{number}",
        memory=Memory(total_bytes=64 * GB, used_bytes=used, available_bytes=64 * GB - used),
        models=infos,
        engines=(endpoint,),
        chip="a processor",
        os="linux",
        cores=16,
        memory_bandwidth_gbps=100.0 + number % 7,
    )


def bodies(count: int, models: int) -> list[bytes]:
    """The heartbeat of every node."""
    return [heartbeat_encode.encode(report_of(number, models), 1.0) for number in range(count)]


def source_of(number: int) -> str:
    """A loopback address for this node, where the system has them all (Linux)."""
    return f"127.1.{number // 250}.{1 + number % 250}" if sys.platform == "linux" else "127.0.0.1"


def send(port: int, heartbeats: Sequence[bytes]) -> Iterator[int]:
    """Sends each heartbeat as agents do: on a new connection, in one piece; yields the status."""
    for number, body in enumerate(heartbeats):
        head = f"POST /heartbeat HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        message = f"{head}Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n".encode() + body
        source = (source_of(number), 0)
        with closing(socket.create_connection(("127.0.0.1", port), 60.0, source_address=source)) as connection:
            connection.sendall(message)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            yield int(answer.split(b" ", 2)[1])
