"""A new user's first ten minutes: ollama-herd's files and agent, two Ollamas, an engine with a key, and Claude Code.

All of it runs on a machine of its own (a network namespace), so that every program has its usual port and no setting
names one. The user types what the README and the messages say, and edits no file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes.agents import install
from fakes.llamacpp.engines import HAS_XLLAMACPP
from fakes.real_ollama import NOT_FOUND, find_ollama
from fakes.real_ollama_herd import run_python, writing_a_month

Json = dict[str, Any]
TESTS = Path(__file__).resolve().parents[1]
SAMPLE = TESTS / "protocol_samples" / "ollama_herd" / "env"
OWN_MACHINE = ("unshare", "--net", "--map-root-user")
ROWS = 29 * 24 * 4
LIMIT_S = 900.0
pytestmark = pytest.mark.timeout(LIMIT_S + 60)
"""It takes four minutes on two busy cores: Claude Code's first prompt has 34,000 tokens."""


def has_own_machine() -> bool:
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*OWN_MACHINE, "ip", "link"], capture_output=True, check=False).returncode == 0


def has_claude_code() -> bool:
    try:
        install.find()
    except install.Unavailable:
        return False
    return True


@pytest.fixture(scope="module")
def seen(ollama_herd: Path, tmp_path_factory: pytest.TempPathFactory) -> Json:
    ollama = find_ollama()
    if ollama is None:
        pytest.skip(NOT_FOUND)
    if not HAS_XLLAMACPP or not has_own_machine():
        pytest.skip("this needs xllamacpp, and a Linux that allows network namespaces")
    home = tmp_path_factory.mktemp("home")
    folder = home / ".fleet-manager"
    folder.mkdir()
    # Its own agent does not start with an empty date.
    lines = [line for line in SAMPLE.read_text("utf-8").splitlines(keepends=True) if not line.endswith("=\n")]
    (folder / "env").write_text("".join(lines), "utf-8")
    run_python(ollama_herd, home, writing_a_month(folder, ROWS))
    program = [sys.executable, str(TESTS / "live" / "new_user.py"), str(home), ollama, str(ollama_herd)]
    program += ["claude"] if has_claude_code() else []
    done = subprocess.run(
        [*OWN_MACHINE, *program],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_the_month_of_ollama_herd_is_shown(seen: Json) -> None:
    assert [line["requests"] for line in seen["old_requests"]["lines"] if line["name"] == "m:latest"] == [ROWS]


def test_a_missing_key_of_an_engine_is_named_with_the_command_that_sets_it(seen: Json) -> None:
    assert "FLEET_NODE_ENGINE_KEY=KEY herd-node" in seen["health_without_key"]
    assert "requires an API key" not in seen["health"]


def test_both_ollamas_and_the_agent_of_ollama_herd_are_nodes(seen: Json) -> None:
    nodes = seen["nodes"]
    assert len(nodes) == 3 and {one["status"] for one in nodes.values()} == {"online"}
    [first] = [name for name in nodes if not name.endswith((":11436", "-2"))]
    # The agent of ollama-herd has the same host name as ours.
    assert set(nodes) == {first, f"{first}:11436", f"{first}-2"}
    assert nodes[f"{first}-2"]["agent_version"] == "0.11.4"
    assert f"{first}-2 (127.0.0.1) joins" in seen["approved"] and "not paired" not in seen["nodes_printed"]
    assert seen["heartbeats_refused"] == 0


def test_every_model_answers_through_every_api(seen: Json) -> None:
    refused = {name: answer for name, (status, answer) in seen["answers"].items() if status != 200}
    assert len(seen["answers"]) == 12 and not refused


def test_claude_code_without_a_configured_model_is_answered(seen: Json) -> None:
    if "claude_code" not in seen:
        pytest.skip("Claude Code is not installed: python3 dev.py agents")
    status, output = seen["claude_code"]
    assert status == 0, output
    asked = [trace for trace in seen["traces"] if (trace["original_model"] or trace["model"]).startswith("claude-")]
    assert asked and {trace["status"] for trace in asked} == {"completed"}
