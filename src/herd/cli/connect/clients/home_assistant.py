"""Says how to add the fleet to Home Assistant, whose settings have no file to edit."""

from __future__ import annotations

from herd.cli.connect import NO_KEY, Client, Connection

WINDOW_MAX_TOKENS = 8192
"""Enough for the exposed entities of most homes; a larger window needs memory on the node."""


def _steps(connection: Connection) -> tuple[str, ...]:
    window = min(connection.context_tokens or WINDOW_MAX_TOKENS, WINDOW_MAX_TOKENS)
    key = "leave it empty" if connection.key == NO_KEY else connection.key
    return (
        "In Home Assistant: Settings > Devices & services > Add integration > Ollama.",
        f"  1. URL: {connection.lan_url}",
        f"  2. API key: {key}",
        "  3. Add conversation agent, and as its model choose:",
        f"     {connection.model}",
        f"  4. Context window size: {window}. Turn on Control Home Assistant only for a model that calls tools.",
        "Then choose this agent in Settings > Voice assistants.",
    )


CLIENT = Client(name="home-assistant", title="Home Assistant", steps=_steps)
