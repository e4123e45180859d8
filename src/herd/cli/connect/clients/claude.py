"""Configures Claude Code in the user's settings.json."""

from __future__ import annotations

from pathlib import Path

from herd.cli.connect import Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import jsonc

MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
)


def _edit(text: str, connection: Connection) -> str:
    values = {
        "ANTHROPIC_BASE_URL": connection.url,
        "ANTHROPIC_AUTH_TOKEN": connection.key,
        **dict.fromkeys(MODELS, connection.model),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    if connection.context_tokens:
        values["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(connection.context_tokens)
        values["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(connection.answer_tokens)
    entries: dict[jsonc.Path, object] = {("env", name): value for name, value in values.items()}
    return jsonc.with_values(text, entries, allows_comments=False)


def _folder(place: Place) -> Path:
    return place.folder_of("CLAUDE_CONFIG_DIR", ".claude")


CLIENT = Client(
    name="claude",
    title="Claude Code",
    programs=("claude",),
    folders=lambda place: (_folder(place),),
    files=lambda place: (ConfigFile(_folder(place) / "settings.json", _edit),),
    steps=lambda _: (
        "Start it with: claude",
        "If ANTHROPIC_API_KEY is set in your shell, unset it: Claude Code would prefer it.",
    ),
    window_min_tokens=16_000,
)
