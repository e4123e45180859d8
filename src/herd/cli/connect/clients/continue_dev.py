"""Configures Continue, the extension of VS Code and JetBrains, in the user's config.yaml."""

from __future__ import annotations

import json
from pathlib import Path

from herd.cli.connect import Client, ConfigFile, Connection, Place, Unreadable
from herd.cli.connect.formats import yaml_lines

MODEL_NAME = "herd"
HEAD: tuple[tuple[str, str], ...] = (("name", "Local Config"), ("version", "1.0.0"), ("schema", "v1"))
"""Entries that Continue requires."""


def _edit(text: str, connection: Connection) -> str:
    if not text.strip():
        text = yaml_lines.with_values("", dict(HEAD))
    capabilities = [
        name
        for name, capability in (("tool_use", "tools"), ("image_input", "vision"))
        if capability in connection.capabilities
    ]
    lines = [
        "provider: openai",
        f"model: {json.dumps(connection.model)}",
        f"apiBase: {json.dumps(connection.url + '/v1')}",
        f"apiKey: {json.dumps(connection.key)}",
        "roles: [chat, edit, apply]",
        *([f"capabilities: [{', '.join(capabilities)}]"] if capabilities else []),
    ]
    if connection.context_tokens:
        lines += [
            "defaultCompletionOptions:",
            f"  contextLength: {connection.context_tokens}",
            f"  maxTokens: {connection.answer_tokens}",
        ]
    return yaml_lines.with_list_item(text, "models", ("name", MODEL_NAME), lines)


def _edit_old(_: str, connection: Connection) -> str:
    raise Unreadable(f"Continue would no longer read it beside a config.yaml; add {connection.url}/v1 to it yourself")


def _folder(place: Place) -> Path:
    return place.folder_of("CONTINUE_GLOBAL_DIR", ".continue")


def _files(place: Place) -> tuple[ConfigFile, ...]:
    new, old = _folder(place) / "config.yaml", _folder(place) / "config.json"
    if old.exists() and not new.exists():
        return (ConfigFile(old, _edit_old),)
    return (ConfigFile(new, _edit),)


CLIENT = Client(
    name="continue",
    title="Continue",
    programs=("cn",),
    folders=lambda place: (_folder(place),),
    files=_files,
    steps=lambda _: (f"In Continue, choose the model {MODEL_NAME}.",),
)
