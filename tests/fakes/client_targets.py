"""Lists the servers that the official clients are tested with: the fake itself, and the coordinator in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from fakes.ollama.server import FakeModel, FakeOllama


@dataclass(frozen=True)
class Target:
    """The server that a test connects to, and the fake behind it, whose request log shows the forwarded requests."""

    kind: str
    """"fake" or "coordinator"."""
    url: str
    fake: FakeOllama


def client_models() -> list[FakeModel]:
    """One model for each capability."""
    return [
        FakeModel(name="talker", capabilities=("completion", "tools")),
        FakeModel(name="seer", capabilities=("completion", "vision")),
        FakeModel(name="thinker", capabilities=("completion", "thinking")),
        FakeModel(name="embedder", capabilities=("embedding",), context_train=512),
    ]
