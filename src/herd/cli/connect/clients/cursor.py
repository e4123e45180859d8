"""Says how to use the fleet in Cursor, and what Cursor cannot do with an address of a private network."""

from __future__ import annotations

from herd.cli.connect import Client, Connection


def _steps(connection: Connection) -> tuple[str, ...]:
    return (
        "Cursor sends every request through its own servers, which cannot reach an address of this machine or network: "
        f"{connection.lan_url} does not work. It needs an HTTPS address that the internet can reach, and then keys "
        "must be required (herd keys add cursor). Requests and answers pass through Cursor's servers.",
        "Custom models work in Ask and Plan; Tab, Agent and Apply use Cursor's own models. A paid plan is needed.",
        "With such an address, in Cursor Settings > Models > API Keys:",
        "  1. Override OpenAI Base URL: https://YOUR-ADDRESS/v1",
        f"  2. OpenAI API Key: {connection.key}",
        f"  3. Add Custom Model: {connection.model}",
        "For a fleet in a private network, use Continue, Zed or an agent in Cursor's terminal: herd connect claude",
    )


CLIENT = Client(name="cursor", title="Cursor", programs=("cursor",), steps=_steps)
