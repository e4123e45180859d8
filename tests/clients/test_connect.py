"""Real agents do the scripted task with nothing but what `herd connect NAME --write` wrote.

Their user's other settings survive, and `--undo` leaves the home folder as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.agents.install import is_full
from fakes.agents.programs import Agent, Ask, Ended, Place, json_lines, start
from fakes.agents.stage import Played, Stage, beating
from fakes.fleet import running_fleet
from fakes.scripted.task import FINISHED
from terminal import Done, herd

OWN_SETTINGS = {
    ".claude/settings.json": '{\n  "includeCoAuthoredBy": false\n}\n',
    ".codex/config.toml": '# mine\nmodel = "gpt-5.5"\ncheck_for_update_on_startup = false # quiet\n\n'
    "[analytics]\nenabled = false\n",
    "config/opencode/opencode.json": json.dumps(
        {"autoupdate": False, "permission": {"edit": "allow", "bash": "allow", "external_directory": "allow"}}
    ),
    ".continue/config.yaml": "name: Mine\nversion: 1.0.0\nschema: v1\nrules:\n  - Be brief. # always\n",
}
"""What the user had configured before; opencode would ask for these permissions."""


def connected(place: Place, ask: Ask, name: str, *more: str) -> Done:
    return herd("connect", name, *more, url=ask.url, env=place.environment({}))


def prepare(place: Place) -> None:
    for path, text in OWN_SETTINGS.items():
        (place.home / path).parent.mkdir(parents=True, exist_ok=True)
        (place.home / path).write_text(text)


def files(home: Path) -> dict[str, str]:
    return {path: (home / path).read_text() for path in OWN_SETTINGS}


def claude(place: Place, ask: Ask) -> Ended:
    program = place.agents.package("@anthropic-ai/claude-code") / "bin" / "claude.exe"
    flags = ("--output-format", "json", "--permission-mode", "bypassPermissions")
    status, out, err = start(place, ask, [program, "-p", ask.prompt, *flags], {"IS_SANDBOX": "1"})
    results = [line for line in json_lines(out) if line.get("type") == "result"]
    return Ended(status, str(results[-1].get("result")) if results else "", out + err)


def codex(place: Place, ask: Ask) -> Ended:
    program = place.agents.package("@openai/codex") / "bin" / "codex.js"
    flags = ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    status, out, err = start(place, ask, [place.agents.node, program, "exec", *flags, ask.prompt], {})
    items = [line["item"] for line in json_lines(out) if line.get("type") == "item.completed"]
    texts = [item["text"] for item in items if item["type"] == "agent_message"]
    return Ended(status, texts[-1] if texts else "", out + err)


def opencode(place: Place, ask: Ask) -> Ended:
    program = place.agents.package("opencode-ai") / "bin" / "opencode.exe"
    offline = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "npm_config_offline": "true", "npm_config_fetch_retries": "0"}
    status, out, err = start(place, ask, [program, "run", "--format", "json", ask.prompt], offline)
    texts = [line["part"]["text"] for line in json_lines(out) if line.get("type") == "text"]
    return Ended(status, texts[-1] if texts else "", out + err)


def continue_cli(place: Place, ask: Ask) -> Ended:
    program = place.agents.package("@continuedev/cli") / "dist" / "cn.js"
    status, out, err = start(place, ask, [place.agents.node, program, "-p", "--auto", ask.prompt], {})
    return Ended(status, out.strip(), out + err)


def configured(name: str, agent: Agent) -> Agent:
    """The agent after `herd connect NAME --write`, which is undone afterwards."""

    def run(place: Place, ask: Ask) -> Ended:
        prepare(place)
        before = files(place.home)
        written = connected(place, ask, name, "--write")
        assert written.status == 0, written.err
        after = files(place.home)
        assert [path for path in before if before[path] != after[path]] == [path for path in before if name in path]
        ended = agent(place, ask)
        undone = connected(place, ask, name, "--undo", "--force")
        assert undone.status == 0, undone.err
        assert files(place.home) == before
        assert not list(place.home.rglob("*.before-herd"))
        return ended

    return run


def check(played: Played) -> None:
    report = f"{played.ended.text!r}\n{played.ended.output[-3000:]}"
    assert played.ended.text == FINISHED, report
    assert played.task.is_done(), report
    assert {request.status for request in played.requests} == {200}


AGENTS: dict[str, Callable[[Place, Ask], Ended]] = {"claude": claude, "codex": codex, "opencode": opencode}


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("kind", ["ollama", "llamacpp"] if is_full() else ["ollama"])
def test_an_agent_works_with_what_connect_wrote(stage: Stage, kind: str, name: str) -> None:
    check(stage.through_herd(configured(name, AGENTS[name]), kind))


@pytest.mark.parametrize("kind", ["ollama", "llamacpp"] if is_full() else ["ollama"])
def test_continues_command_line_works_with_what_connect_wrote(continue_stage: Stage, kind: str) -> None:
    played = continue_stage.through_herd(configured("continue", continue_cli), kind)
    check(played)
    assert played.outside == []


@pytest.mark.parametrize("name", AGENTS if is_full() else ["codex"])
def test_an_agent_gets_a_key_of_its_own_where_keys_are_required(stage: Stage, name: str) -> None:
    engine = stage.engine("llamacpp", False)
    with running_fleet({"alpha": engine}) as fleet, beating(fleet):
        fleet.ask("POST", "/fleet/keys", json.dumps({"name": "somebody else"}).encode())
        check(stage.play(configured(name, AGENTS[name]), engine, fleet.url))
        keys = {key["name"].split()[0]: key for key in fleet.get("/fleet/keys")["keys"]}
        assert keys[name]["scopes"] == ["chat"] and keys[name]["revoked_at"]
        assert keys["somebody"]["is_valid"]
