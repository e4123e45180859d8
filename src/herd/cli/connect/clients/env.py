"""Writes environment variables for programs that read OPENAI_*, ANTHROPIC_* or OLLAMA_*."""

from __future__ import annotations

from types import MappingProxyType

from herd.cli.connect import Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import shell_lines

ENDINGS = MappingProxyType({"fish": "fish", "powershell": "ps1"})


def variables(connection: Connection) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": f"{connection.url}/v1",
        "OPENAI_API_BASE": f"{connection.url}/v1",
        "OPENAI_API_KEY": connection.key,
        "OPENAI_MODEL": connection.model,
        "ANTHROPIC_BASE_URL": connection.url,
        "ANTHROPIC_AUTH_TOKEN": connection.key,
        "ANTHROPIC_MODEL": connection.model,
        "ANTHROPIC_SMALL_FAST_MODEL": connection.model,
        "OLLAMA_HOST": connection.url,
        "OLLAMA_API_KEY": connection.key,
    }


def _files(place: Place) -> tuple[ConfigFile, ...]:
    def edit(_: str, connection: Connection) -> str:
        return "\n".join([*shell_lines.commands(variables(connection), place.shell), ""])

    folder = place.folder_of("XDG_CONFIG_HOME", ".config") / "herd"
    return (ConfigFile(folder / f"env.{ENDINGS.get(place.shell, 'sh')}", edit),)


CLIENT = Client(
    name="env",
    title="environment variables",
    files=_files,
    steps=lambda _: ("Load the file in your shell's start file, for example: . ~/.config/herd/env.sh",),
    is_script=True,
)
