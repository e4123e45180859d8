"""Provides the engines of the fidelity tests, alone and behind a coordinator.

Without a real Ollama the tests are skipped and say so loudly; with CI=true they are an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fakes.fleet import Machine, report_of, running_fleet
from fakes.llamacpp.engines import HAS_XLLAMACPP, EngineSettings, LlamaEngine
from fakes.llamacpp.tiny_gguf import TinyModel
from fakes.real_ollama import CHAT_MODEL, EMBED_MODEL, ENDLESS_TOKENS, NOT_FOUND, TOOLS_MODEL, RealOllama, find_ollama
from fidelity.pairs import WINDOW_TOKENS, Pair, announce_as, heartbeats, paths_of

OLLAMA_MODELS = {"chat": CHAT_MODEL, "tools": TOOLS_MODEL, "embed": EMBED_MODEL}
LLAMA_MODELS = {"chat": "tiny", "tools": "tiny", "embed": "tiny-embed"}
ENDLESS = TinyModel(seed=3, mean_tokens=ENDLESS_TOKENS)
LLAMA_KINDS = ("llamacpp", "openai", "vllm", "lmstudio")


def without(what: str) -> None:
    """Skips the test, or fails where everything must be installed."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def ollama_binary() -> str:
    binary = find_ollama()
    if binary is None:
        without(NOT_FOUND)
    assert binary is not None
    return binary


@pytest.fixture(scope="module")
def direct_ollama(ollama_binary: str) -> Iterator[RealOllama]:
    with RealOllama(ollama_binary, {"OLLAMA_CONTEXT_LENGTH": str(WINDOW_TOKENS)}) as server:
        yield server


@pytest.fixture(scope="module", params=["window by default", "window set"])
def ollama_pair(request: pytest.FixtureRequest, ollama_binary: str, direct_ollama: RealOllama) -> Iterator[Pair]:
    with RealOllama(ollama_binary) as node, running_fleet({"alpha": node}) as fleet:
        if request.param == "window set":
            for model in (CHAT_MODEL, TOOLS_MODEL):
                load = {"model": model, "options": {"num_ctx": 8192}, "stream": False}
                node.ask("POST", "/api/generate", json.dumps(load).encode())
        with heartbeats(fleet.beat):
            ports = dict.fromkeys(OLLAMA_MODELS, direct_ollama.port)
            yield Pair(ports, fleet.port, OLLAMA_MODELS, paths_of("ollama", ""))


@pytest.fixture(scope="module")
def llama_engines() -> Iterator[dict[str, LlamaEngine]]:
    if not HAS_XLLAMACPP:
        without("xllamacpp is not installed")
    chat = EngineSettings(alias=LLAMA_MODELS["chat"], slots=1, context_tokens=WINDOW_TOKENS)
    embed = EngineSettings(alias=LLAMA_MODELS["embed"], embedding=True)
    with ExitStack() as started:
        engines = {
            "chat": started.enter_context(LlamaEngine(chat, ENDLESS)),
            "embed": started.enter_context(LlamaEngine(embed)),
        }
        yield engines


@pytest.fixture(scope="module", params=LLAMA_KINDS)
def llama_pair(request: pytest.FixtureRequest, llama_engines: dict[str, LlamaEngine]) -> Iterator[Pair]:
    """One llama.cpp, announced as an engine of each kind whose protocol it speaks."""
    with running_fleet({}) as fleet:

        def beat() -> None:
            for node_id, engine in llama_engines.items():
                announce_as(fleet, node_id, engine, request.param)

        ports = {role: llama_engines["embed" if role == "embed" else "chat"].port for role in LLAMA_MODELS}
        version = report_of("chat", llama_engines["chat"], Machine()).engines[0].version
        with heartbeats(beat):
            yield Pair(ports, fleet.port, LLAMA_MODELS, paths_of(request.param, version))
