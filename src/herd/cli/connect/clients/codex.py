"""Configures Codex in the user's config.toml."""

from __future__ import annotations

from pathlib import Path

from herd.cli.connect import NO_KEY, Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import toml_lines

TABLE = ("model_providers", "herd")


def _edit(text: str, connection: Connection) -> str:
    values: dict[tuple[toml_lines.Table, str], toml_lines.Scalar] = {
        ((), "model"): connection.model,
        ((), "model_provider"): "herd",
        (TABLE, "name"): "herd",
        (TABLE, "base_url"): f"{connection.url}/v1",
        (TABLE, "wire_api"): "responses",
    }
    if connection.key != NO_KEY:
        values[TABLE, "experimental_bearer_token"] = connection.key
    if connection.context_tokens:
        values[(), "model_context_window"] = connection.context_tokens
    return toml_lines.with_values(text, values)


def _folder(place: Place) -> Path:
    return place.folder_of("CODEX_HOME", ".codex")


CLIENT = Client(
    name="codex",
    title="Codex",
    programs=("codex",),
    folders=lambda place: (_folder(place),),
    files=lambda place: (ConfigFile(_folder(place) / "config.toml", _edit),),
    steps=lambda _: ("Start it with: codex",),
    window_min_tokens=12_000,
)
