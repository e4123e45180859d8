"""Configures opencode in the user's opencode.json."""

from __future__ import annotations

from pathlib import Path

from herd.cli.connect import Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import jsonc

NAMES = ("opencode.jsonc", "opencode.json", "config.json")
"""Files that it merges, the one whose values win first."""


def _edit(text: str, connection: Connection) -> str:
    name = f"herd/{connection.model}"
    model: dict[str, object] = {"name": connection.model, "tool_call": "tools" in connection.capabilities}
    if "vision" in connection.capabilities:
        model |= {"attachment": True, "modalities": {"input": ["text", "image"], "output": ["text"]}}
    if connection.context_tokens:
        model["limit"] = {"context": connection.context_tokens, "output": connection.answer_tokens}
    values: dict[jsonc.Path, object] = {
        ("model",): name,
        ("small_model",): name,
        ("provider", "herd", "npm"): "@ai-sdk/openai-compatible",
        ("provider", "herd", "name"): "herd",
        ("provider", "herd", "options", "baseURL"): f"{connection.url}/v1",
        ("provider", "herd", "options", "apiKey"): connection.key,
        ("provider", "herd", "models", connection.model): model,
    }
    if not text.strip():
        values = {("$schema",): "https://opencode.ai/config.json", **values}
    return jsonc.with_values(text, values)


def _folder(place: Place) -> Path:
    return place.folder_of("XDG_CONFIG_HOME", ".config") / "opencode"


def _files(place: Place) -> tuple[ConfigFile, ...]:
    known = (_folder(place) / name for name in NAMES)
    path = next((path for path in known if path.exists()), _folder(place) / "opencode.json")
    return (ConfigFile(path, _edit),)


CLIENT = Client(
    name="opencode",
    title="opencode",
    programs=("opencode",),
    folders=lambda place: (_folder(place),),
    files=_files,
    steps=lambda _: ("Start it with: opencode",),
    window_min_tokens=16_000,
)
