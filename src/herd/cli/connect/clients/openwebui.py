"""Configures Open WebUI by an env file, as `docker run --env-file` and compose's `env_file` read it."""

from __future__ import annotations

from herd.cli.connect import NO_KEY, Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import shell_lines

FILE = "open-webui.env"


def _edit(text: str, connection: Connection) -> str:
    # It often runs in a container, where this machine's loopback address is another one.
    values = {
        "ENABLE_OLLAMA_API": "true" if connection.key == NO_KEY else "false",
        "OLLAMA_BASE_URL": connection.lan_url,
        "OPENAI_API_BASE_URL": f"{connection.lan_url}/v1",
        "OPENAI_API_KEY": connection.key,
        "ENABLE_OPENAI_API": "true" if connection.key != NO_KEY else "false",
        "DEFAULT_MODELS": connection.model,
    }
    return shell_lines.with_variables(text, values)


def _files(place: Place) -> tuple[ConfigFile, ...]:
    return (ConfigFile(place.folder / FILE, _edit),)


def _steps(connection: Connection) -> tuple[str, ...]:
    key = (
        "The Ollama connection has no environment variable for a key: the OpenAI connection is used instead, or enter "
        "the key in Admin Panel > Settings > Connections."
    )
    return (
        f"Start it with this file: docker run --env-file {FILE} ..., or set these variables before open-webui serve.",
        "After its first start they are in its own database; change them in Admin Panel > Settings > Connections.",
        *((key,) if connection.key != NO_KEY else ()),
    )


CLIENT = Client(name="openwebui", title="Open WebUI", programs=("open-webui",), files=_files, steps=_steps)
