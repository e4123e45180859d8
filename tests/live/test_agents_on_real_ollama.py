"""Real coding agents with a real Ollama whose window is 4096 tokens: no request fails, and no prompt is truncated.

The model is tiny and random, so it ends its answer soon and calls no tool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.agents.install import Agents, Unavailable, find, is_full
from fakes.agents.outside import Outside
from fakes.agents.programs import Agent, Ask, Ended, Place, ai_sdk, claude_code_with_few_tools, codex, opencode
from fakes.agents.stage import beating
from fakes.fleet import running_fleet
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf
from fakes.real_ollama import NOT_FOUND, TOOLS_TEMPLATE, RealOllama, find_ollama

MODEL = "tiny:agent"
OWN_WINDOW_TOKENS = 4096
PROMPT = "Answer with one word."
AGENTS: dict[str, Agent] = {
    "claude_code": claude_code_with_few_tools,
    "codex": codex,
    "opencode": opencode,
    "ai_sdk_chat": ai_sdk("openai-chat", True, wants_shape=False),
    "ai_sdk_responses": ai_sdk("openai-responses", True, wants_shape=False),
    "ai_sdk_anthropic": ai_sdk("anthropic", True, wants_shape=False),
}
"""The model's tokens are short, so all tools of Claude Code would be more of them than herd can expect."""
LONG = ("claude_code", "codex", "opencode")
"""Their prompts are longer than Ollama's own window."""
BY_DEFAULT = ("claude_code", "ai_sdk_chat")
"""The others take a minute each."""
LOAD_MS = 100
"""Ollama reports a few milliseconds if the model is loaded."""
LOADS_MAX = 2
"""The first load, and a reload with a larger window."""


@pytest.fixture(scope="module")
def agents() -> Agents:
    try:
        return find()
    except Unavailable as why:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(str(why))
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def ollama() -> Iterator[RealOllama]:
    """A separate server, because all of its runner processes are counted."""
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary, {"OLLAMA_CONTEXT_LENGTH": str(OWN_WINDOW_TOKENS)}) as running:
        model = TinyModel(seed=5, mean_tokens=4, context_tokens=131_072)
        running.create(MODEL, tiny_gguf(model), template=TOOLS_TEMPLATE)
        yield running


def run(agent: Agent, agents: Agents, url: str, folder: Path) -> Ended:
    with Outside() as outside:
        project = folder / "project"
        project.mkdir()
        return agent(Place(agents, folder / "home", outside), Ask(url, MODEL, PROMPT, project))


@pytest.mark.parametrize("name", AGENTS if is_full() else BY_DEFAULT)
def test_an_agents_requests_are_answered_from_a_window_that_is_large_enough(
    name: str, agents: Agents, ollama: RealOllama, tmp_path: Path
) -> None:
    ollama.ask("POST", "/api/generate", json.dumps({"model": MODEL, "keep_alive": 0}).encode())
    with running_fleet({"alpha": ollama}) as fleet, beating(fleet):
        ended = run(AGENTS[name], agents, fleet.url, tmp_path)
        assert fleet.coordinator.store.flush()
        traces = fleet.get("/dashboard/api/traces")["traces"]
    assert ended.returncode == 0, ended.output
    assert traces
    assert {trace["status"] for trace in traces} == {"completed"}
    assert {trace["truncated"] for trace in traces} == {0}
    loaded = json.loads(ollama.ask("GET", "/api/ps"))["models"]
    (window_tokens,) = [model["context_length"] for model in loaded if model["name"] == MODEL]
    longest = max(trace["prompt_tokens"] for trace in traces)
    assert longest < window_tokens
    assert (longest > OWN_WINDOW_TOKENS) == (name in LONG)
    assert sum((trace["load_ms"] or 0) > LOAD_MS for trace in traces) <= LOADS_MAX
