"""Configures aider in the user's .aider.conf.yml, and its context window in .aider.model.metadata.json."""

from __future__ import annotations

from herd.cli.connect import Client, ConfigFile, Connection, Place
from herd.cli.connect.formats import jsonc, yaml_lines


def _name(connection: Connection) -> str:
    return f"openai/{connection.model}"


def _edit_settings(text: str, connection: Connection) -> str:
    values: dict[str, yaml_lines.Scalar] = {
        "model": _name(connection),
        "weak-model": _name(connection),
        "editor-model": _name(connection),
        "openai-api-base": f"{connection.url}/v1",
        "openai-api-key": connection.key,
        "show-model-warnings": False,
    }
    return yaml_lines.with_values(text, values)


def _edit_window(text: str, connection: Connection) -> str:
    facts: dict[str, object] = {"litellm_provider": "openai", "mode": "chat"}
    if connection.context_tokens:
        facts |= {
            "max_input_tokens": connection.context_tokens,
            "max_output_tokens": connection.answer_tokens,
            "max_tokens": connection.answer_tokens,
        }
    facts |= {"input_cost_per_token": 0, "output_cost_per_token": 0}
    return jsonc.with_values(text, {(_name(connection),): facts}, allows_comments=False)


def _files(place: Place) -> tuple[ConfigFile, ...]:
    return (
        ConfigFile(place.home / ".aider.conf.yml", _edit_settings),
        ConfigFile(place.home / ".aider.model.metadata.json", _edit_window),
    )


CLIENT = Client(
    name="aider",
    title="aider",
    programs=("aider",),
    files=_files,
    steps=lambda _: ("Start it in a project with: aider",),
)
