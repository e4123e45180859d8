"""Claude Code, Codex and opencode do a small task against an engine itself and through herd, with the same edits.

The engine's model follows a script (`fakes/scripted/task.py`): it reads two files with two calls in one move, edits
one, runs a command and reports. With HERD_TEST_ALL_AGENTS=1 every agent runs with every kind of engine.
"""

from __future__ import annotations

import pytest

from fakes.agents.install import is_full
from fakes.agents.programs import Agent, claude_code, codex, codex_with_patch_tool, opencode
from fakes.agents.stage import Played, Stage
from fakes.scripted.engines import KINDS
from fakes.scripted.task import FINISHED

AGENTS = (claude_code, codex, codex_with_patch_tool, opencode)
ALONE = {
    "claude_code": ("ollama", "vllm", "llamacpp"),
    "codex": ("ollama", "vllm"),
    "codex_with_patch_tool": (),
    "opencode": ("openai",),
}
"""The engines that serve an agent without herd: the others lack its API, or refuse or drop its kinds of tools."""
THROUGH_HERD = {
    "claude_code": KINDS,
    "codex": ("ollama", "llamacpp"),
    "codex_with_patch_tool": ("openai", "vllm"),
    "opencode": ("ollama", "llamacpp"),
}


def name_of(agent: Agent) -> str:
    return agent.__name__  # type: ignore[attr-defined, no-any-return]


CASES = [(agent, kind) for agent in AGENTS for kind in (KINDS if is_full() else THROUGH_HERD[name_of(agent)])]


def check(played: Played) -> None:
    report = f"{played.ended.text!r}\n{played.ended.output[-3000:]}"
    assert played.ended.text == FINISHED, report
    assert played.ended.returncode == 0, report
    assert played.task.is_done(), report
    assert {request.status for request in played.requests} == {200}
    assert played.outside == []


@pytest.mark.parametrize(
    ("agent", "kind"),
    [pytest.param(agent, kind, id=f"{name_of(agent)}-{kind}") for agent in AGENTS for kind in ALONE[name_of(agent)]],
)
def test_an_agent_does_the_task_against_the_engine_itself(stage: Stage, agent: Agent, kind: str) -> None:
    check(stage.direct(agent, kind))


@pytest.mark.parametrize(
    ("agent", "kind"), [pytest.param(agent, kind, id=f"{name_of(agent)}-{kind}") for agent, kind in CASES]
)
def test_an_agent_does_the_same_task_through_herd(stage: Stage, agent: Agent, kind: str) -> None:
    played = stage.through_herd(agent, kind)
    check(played)
    # The window was large enough from the first long prompt on, and stayed.
    assert played.reloads <= 1
