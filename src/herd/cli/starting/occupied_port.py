"""Explains which program already listens on the coordinator's port, and what to do about it."""

from __future__ import annotations

import http.client
import json
from contextlib import closing

from herd.cli.starting.problem import CliError

PROBE_TIMEOUT_S = 1.0
ANSWER_MAX_BYTES = 64 * 1024
OWN_LIMIT = "http.body_max_bytes"
"""A limit that our coordinator lists in `/fleet/limits`, and that ollama-herd does not have."""
OLLAMA_GREETING = b"Ollama is running"


def port_in_use(port: int) -> CliError:
    """The error for this port, with the name of the program that listens there if it is a known one."""
    other_port = f"herd --port {port + 1}"
    limits = _json(_get(port, "/fleet/limits"))
    if OWN_LIMIT in limits:
        return CliError(
            f"a coordinator already listens on port {port}",
            f"see what it does: herd status --url http://127.0.0.1:{port}\n"
            f"or start a second coordinator: {other_port} --data-dir FOLDER",
        )
    if "max_retries" in limits:
        return CliError(
            f"port {port} is in use by the router of ollama-herd",
            "stop it and start herd again: its settings and its database are used unchanged\n"
            f"or try herd beside it: {other_port} --data-dir FOLDER",
        )
    if _get(port, "/") == OLLAMA_GREETING:
        return CliError(
            f"port {port} is in use by an Ollama",
            f"another product may have moved it there. Start the coordinator on another port: {other_port}\n"
            f"and the agent with its address: herd-node --ollama-host http://127.0.0.1:{port} "
            f"--router-url http://127.0.0.1:{port + 1}",
        )
    return CliError(
        f"port {port} is in use by another program", f"stop that program, or use another port: {other_port}"
    )


def _get(port: int, path: str) -> bytes:
    """The beginning of the answer of whatever listens there; empty without a usable answer."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.read(ANSWER_MAX_BYTES) if response.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return b""


def _json(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
