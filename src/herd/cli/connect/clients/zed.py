"""Configures Zed in the user's settings.json, which has comments."""

from __future__ import annotations

from pathlib import Path

from herd.cli.connect import NO_KEY, Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import jsonc

WINDOW_DEFAULT_TOKENS = 16_384
"""Zed itself asks Ollama for 4096 tokens, which is too few for its agent."""


def _edit(text: str, connection: Connection) -> str:
    values: dict[jsonc.Path, object] = {
        ("language_models", "ollama", "api_url"): connection.url,
        ("language_models", "ollama", "context_window"): connection.context_tokens or WINDOW_DEFAULT_TOKENS,
        ("agent", "default_model", "provider"): "ollama",
        ("agent", "default_model", "model"): connection.model,
    }
    return jsonc.with_values(text, values)


def _folder(place: Place) -> Path:
    if place.platform == "win32":
        return place.folder_of("APPDATA", "AppData", "Roaming") / "Zed"
    if place.platform == "darwin":
        return place.home / ".config" / "zed"
    return place.folder_of("XDG_CONFIG_HOME", ".config") / "zed"


def _steps(connection: Connection) -> tuple[str, ...]:
    if connection.key == NO_KEY:
        return ("Zed lists every model of the fleet; the key that it may ask for can be any text.",)
    return (
        "Zed keeps keys in the system's keychain, so herd cannot write it. "
        f"Enter {connection.key} under Agent Settings > LLM Providers > Ollama, or set OLLAMA_API_KEY.",
    )


CLIENT = Client(
    name="zed",
    title="Zed",
    programs=("zed", "zeditor"),
    folders=lambda place: (_folder(place),),
    files=lambda place: (ConfigFile(_folder(place) / "settings.json", _edit),),
    steps=_steps,
)
