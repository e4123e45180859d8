"""Real coding agents with a real Ollama whose window is 4096 tokens: each finishes a task, and no prompt is truncated.

The coordinator, the agent of the node and Ollama are processes of their own. Each coding agent has all of its tools and
its own system prompt. Through herd, the model plays the script of `fakes/scripted/real_model.py`: it reads two files,
edits one, runs a command and reports. Ollama alone is asked with a random model, which ends its answer soon and
calls no tool, because a truncated conversation would never end the script.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fakes.agents.install import Agents, Unavailable, find, is_full
from fakes.agents.outside import Outside
from fakes.agents.programs import Agent, Ask, Ended, Place, ai_sdk, claude_code, codex, codex_with_patch_tool, opencode
from fakes.child_process import wait_until
from fakes.herd_processes import HerdProcesses, Json
from fakes.llamacpp.scripted_gguf import write_scripted_gguf
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf
from fakes.real_ollama import NOT_FOUND, TOOLS_TEMPLATE, RealOllama, find_ollama
from fakes.scripted.real_model import TEMPLATE, answers_of
from fakes.scripted.task import FINISHED, OfferedTool, Task

MODEL = "tiny:agent"
SMALL_MODEL = "tiny:agent-with-small-window"
OWN_WINDOW_TOKENS = 4096
SETTINGS = {"OLLAMA_CONTEXT_LENGTH": str(OWN_WINDOW_TOKENS), "OLLAMA_MAX_LOADED_MODELS": "20"}
"""No model is unloaded for another one."""
SMALL_WINDOW_TOKENS = 8192
"""The small model's largest window: less than the prompts of `LONG`."""
PROMPT = "Answer with one word."
LAST_PROMPT = "End."
AGENTS: dict[str, Agent] = {
    "claude_code": claude_code,
    "codex": codex,
    "codex_with_patch_tool": codex_with_patch_tool,
    "opencode": opencode,
    "ai_sdk_chat": ai_sdk("openai-chat", True, wants_shape=False),
    "ai_sdk_compatible": ai_sdk("openai-compatible", True, wants_shape=False),
    "ai_sdk_responses": ai_sdk("openai-responses", True, wants_shape=False),
    "ai_sdk_anthropic": ai_sdk("anthropic", True, wants_shape=False),
    "ai_sdk_ollama": ai_sdk("ollama", True, wants_shape=False),
}
SDK_TOOLS = ("read_file", "str_replace", "run_command")
TOOLS: dict[str, tuple[str, ...]] = {
    "claude_code": ("Read", "Edit", "Bash"),
    "codex": ("exec_command",),
    "codex_with_patch_tool": ("exec_command", "apply_patch"),
    "opencode": ("read", "edit", "bash"),
}
"""The tools of each agent that the script uses; those of the AI SDK's script are `SDK_TOOLS`."""
LONG = ("claude_code", "codex", "codex_with_patch_tool", "opencode")
"""Their prompts are longer than Ollama's own window."""
BY_DEFAULT = ("claude_code", "ai_sdk_chat")
"""The others take half a minute each."""
REFUSED: dict[str, str] = {
    "claude_code": "API Error: 400 the prompt has ",
    "codex": "ran out of room in the model's context window",
}
"""What an agent tells its user about a prompt that no window of the model can hold."""
MORE_THAN_OLLAMA = {"codex_with_patch_tool": "does not support thinking"}
"""Why Ollama itself refuses an agent: this one asks for thinking, which herd leaves out for a model without it."""
LOAD_MS = 100
"""A load takes longer. On a busy machine Ollama may report more for a model that is loaded, too."""

LOADS = {"opencode": 2}
"""opencode first asks for a title, for which a window is loaded that is too small for its task. Others load once."""


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
    with RealOllama(binary, SETTINGS) as running:
        for name, context_tokens in ((MODEL, 131_072), (SMALL_MODEL, SMALL_WINDOW_TOKENS)):
            model = TinyModel(seed=5, mean_tokens=4, context_tokens=context_tokens, layers=1)
            running.create(name, tiny_gguf(model), template=TOOLS_TEMPLATE)
        yield running


@pytest.fixture(scope="module")
def herd(ollama: RealOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HerdProcesses]:
    with HerdProcesses([ollama.url], tmp_path_factory.mktemp("herd")) as running:
        yield running


def run(agent: Agent, agents: Agents, folder: Path, ask: Ask) -> Ended:
    with Outside() as outside:
        ask.folder.mkdir(parents=True, exist_ok=True)
        return agent(Place(agents, folder / "home", outside), ask)


def create_scripted(name: str, ollama: RealOllama, folder: Path, file: Path) -> str:
    """Creates the model that plays the task in `folder` for this agent, and returns its name."""
    offered = [OfferedTool(tool, schema={"properties": {"input": {}}}) for tool in TOOLS.get(name, SDK_TOOLS)]
    # Little attention, because the prompts are long.
    small = TinyModel(layers=1, context_tokens=131_072, heads=1, kv_heads=1, head_channels=16)
    write_scripted_gguf(file, small, answers_of(folder, offered))
    model = f"tiny:scripted-{name}"
    ollama.create(model, file, template=TEMPLATE)
    return model


def load(model: str, ollama: RealOllama, herd: HerdProcesses) -> None:
    """Loads the model without herd, so that it has Ollama's own window, and waits until herd knows."""
    for keep_alive in (0, "5m"):
        order = {"model": model, "keep_alive": keep_alive}
        ollama.ask("POST", "/api/generate", json.dumps(order).encode())
    assert loaded_window(model, ollama) == OWN_WINDOW_TOKENS
    wait_until(lambda: known_window(model, herd) == OWN_WINDOW_TOKENS, "a heartbeat has the loaded window")


def loaded_window(name: str, ollama: RealOllama) -> int:
    loaded = json.loads(ollama.ask("GET", "/api/ps"))["models"]
    (tokens,) = [model["context_length"] for model in loaded if model["name"] == name]
    assert isinstance(tokens, int)
    return tokens


def known_window(name: str, herd: HerdProcesses) -> int | None:
    """The loaded window according to the last heartbeat; None without a loaded model."""
    (node,) = herd.get("/fleet/status")["nodes"]
    loaded = [model for model in node["models"] if model["name"] == name and model["loaded"]]
    tokens = loaded[0]["context_length"] if loaded else None
    assert tokens is None or isinstance(tokens, int)
    return tokens


def ask_herd(herd: HerdProcesses, ask: Callable[[], Ended]) -> tuple[Ended, list[Json]]:
    """The agent's end, and the traces of its requests."""
    before = stored(herd)
    ended = ask()
    return ended, stored(herd)[len(before) :]


def stored(herd: HerdProcesses) -> list[Json]:
    """All traces of agents. Rows are stored in the order of their ends: a last request shows that none is missing."""
    asked = len(list(filter(is_last, traces(herd))))
    herd.post("/api/generate", {"model": MODEL, "prompt": LAST_PROMPT, "stream": False, "options": {"num_predict": 1}})
    wait_until(lambda: len(list(filter(is_last, traces(herd)))) > asked, "the trace of the last request")
    return [trace for trace in traces(herd) if not is_last(trace)]


def is_last(trace: Json) -> bool:
    """Agents are asked through herd with other models."""
    return bool(trace["model"] == MODEL)


def traces(herd: HerdProcesses) -> list[Json]:
    """In the order of their ends."""
    found = herd.get("/dashboard/api/traces?limit=500")["traces"]
    assert isinstance(found, list)
    return found[::-1]


@pytest.mark.parametrize("name", AGENTS if is_full() else BY_DEFAULT)
def test_an_agent_finishes_its_task_from_a_window_that_is_large_enough(
    name: str, agents: Agents, ollama: RealOllama, herd: HerdProcesses, tmp_path: Path
) -> None:
    direct = run(AGENTS[name], agents, tmp_path / "direct", Ask(ollama.url, MODEL, PROMPT, tmp_path / "project"))
    assert direct.returncode == 0 or MORE_THAN_OLLAMA.get(name, "other") in direct.output, direct.output
    task = Task(tmp_path / "task")
    task.prepare()
    model = create_scripted(name, ollama, task.folder, tmp_path / "scripted.gguf")
    load(model, ollama, herd)
    loads = 0

    def ask() -> Ended:
        nonlocal loads
        before = ollama.loads()
        ended = run(AGENTS[name], agents, tmp_path / "herd", Ask(herd.url, model, task.prompt, task.folder))
        loads = ollama.loads() - before
        return ended

    ended, asked = ask_herd(herd, ask)
    assert (ended.returncode, ended.text) == (0, FINISHED), ended.output
    assert task.is_done(), ended.output
    completed = [trace for trace in asked if trace["status"] == "completed"]
    assert {trace["truncated"] for trace in completed} == {0}
    longest = max(trace["prompt_tokens"] for trace in completed)
    assert longest < loaded_window(model, ollama)
    assert (longest > OWN_WINDOW_TOKENS) == (name in LONG)
    # An attempt with a window that was too small is recorded as such, and so is the load of the larger one.
    others = [trace for trace in asked if trace["status"] != "completed"]
    assert [(trace["status"], trace["failure"]) for trace in others] in ([], [("retried", "window")])
    if name in LONG:
        assert loads == LOADS.get(name, 1) + len(others)
        assert any((trace["load_ms"] or 0) > LOAD_MS for trace in completed)
    else:
        assert (loads, loaded_window(model, ollama)) == (0, OWN_WINDOW_TOKENS)


@pytest.mark.parametrize("name", REFUSED)
def test_an_agent_says_that_no_window_of_the_model_can_hold_its_prompt(
    name: str, agents: Agents, herd: HerdProcesses, tmp_path: Path
) -> None:
    """Ollama itself answers from a truncated prompt, without the system prompt, and says nothing."""
    ask = Ask(herd.url, SMALL_MODEL, PROMPT, tmp_path / "project")
    ended, asked = ask_herd(herd, partial(run, AGENTS[name], agents, tmp_path, ask))
    assert ended.returncode == 1
    assert REFUSED[name] in ended.output
    assert {trace["status"] for trace in asked} == {"failed"}
