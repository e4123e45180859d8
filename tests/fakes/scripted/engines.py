"""Starts a scripted engine of any kind, with the requests that it got."""

from __future__ import annotations

from dataclasses import dataclass

from fakes.ollama.server import FakeOllama, FakeSettings
from fakes.scripted.ollama import scripted_model
from fakes.scripted.server import MODEL, Kind, ScriptedEngine

KINDS = ("ollama", *(kind.value for kind in Kind))
OWN_WINDOW_TOKENS = 4096
"""The window that Ollama loads a model with unless the request says otherwise."""


@dataclass(frozen=True)
class Answered:
    """One POST request to an engine."""

    path: str
    body: bytes
    status: int


def scripted_engine(kind: str, window_tokens: int = OWN_WINDOW_TOKENS) -> FakeOllama | ScriptedEngine:
    """An engine that is not started yet; `window_tokens` is Ollama's default window."""
    if kind == "ollama":
        return FakeOllama([scripted_model(MODEL)], FakeSettings(context_length=window_tokens))
    return ScriptedEngine(Kind(kind))


def inference(engine: FakeOllama | ScriptedEngine) -> list[Answered]:
    """Its POST requests so far."""
    return [
        Answered(request.path, request.body, request.status) for request in engine.requests if request.method == "POST"
    ]
