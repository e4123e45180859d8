"""A machine of ollama-herd 0.11.4 moves: its environment file, its database and its agent stay, only `herd` is ours."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fakes.child_process import Child, free_port, wait_until
from fakes.real_ollama import TOOLS_MODEL, RealOllama
from fakes.real_ollama_herd import agent, run_python
from herd.ollama_herd_settings import WITHOUT_EFFECT

SAMPLE = Path(__file__).resolve().parents[1] / "protocol_samples" / "ollama_herd" / "env"
TRACES = """
import asyncio
from fleet_manager.server.trace_store import TraceStore

async def write():
    traces = TraceStore("{folder}")
    await traces.initialize()
    await traces.record_trace("old-request", "m:latest", "m:latest", "studio", 70.0)
    await traces.close()

asyncio.run(write())
"""


class Machine:
    """A home folder with the files of ollama-herd, in which our coordinator runs."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.folder = home / ".fleet-manager"
        self.folder.mkdir()
        more = f"FLEET_PORT={self.port}\nFLEET_HOST=127.0.0.1\nFLEET_OPEN=true\nFLEET_MDNS=false\n"
        # Its own agent does not start with an empty date.
        sample = [line for line in SAMPLE.read_text("utf-8").splitlines(keepends=True) if not line.endswith("=\n")]
        (self.folder / "env").write_text("".join(sample) + more, "utf-8")
        environment = {"HOME": str(home), "COLUMNS": "200"}
        self._command, self._environment = [sys.executable, "-m", "herd"], environment

    def start(self) -> Child:
        return Child(self._command, self._environment)

    def doctor(self) -> str:
        command = [*self._command, "doctor", "--json"]
        return subprocess.run(
            command, env={**os.environ, **self._environment}, capture_output=True, text=True, check=False
        ).stdout

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, json.loads(response.read())


@pytest.fixture(scope="module")
def machine(ollama_herd: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    found = Machine(tmp_path_factory.mktemp("home"))
    run_python(ollama_herd, found.folder.parent, TRACES.format(folder=found.folder))
    return found


@pytest.fixture(scope="module")
def coordinator(machine: Machine) -> Iterator[Child]:
    with machine.start() as child:
        child.wait_for_get(machine.port, "/health")
        yield child


@pytest.fixture(scope="module")
def studio(coordinator: Child, machine: Machine, ollama_herd: Path, real_ollama: RealOllama) -> Iterator[Child]:
    assert coordinator.is_running
    url = f"http://127.0.0.1:{machine.port}"
    with agent(ollama_herd, machine.folder.parent, url, real_ollama.url) as child:

        def has_reported() -> bool:
            assert child.is_running, child.output()[-2000:]
            return bool(machine.call("GET", "/fleet/status")[2]["nodes"])

        wait_until(has_reported, "the agent's first report")
        yield child


def test_the_settings_without_effect_are_one_line_at_start_and_named_by_the_doctor(
    coordinator: Child, machine: Machine
) -> None:
    in_file = re.findall(r"^(FLEET_\w+)=.", (machine.folder / "env").read_text("utf-8"), re.MULTILINE)
    without = set(in_file) & set(WITHOUT_EFFECT)
    [line] = [line for line in coordinator.output().splitlines() if "no effect here" in line]
    # The agent reports its own.
    assert f" {len([name for name in without if not name.startswith('FLEET_NODE_')])} settings of ollama-herd" in line
    doctor = machine.doctor()
    assert len(without) > 20 and {name for name in without if f"{name} (" not in doctor} == set()


def test_old_traces_are_shown(coordinator: Child, machine: Machine) -> None:
    assert coordinator.is_running
    rows = machine.call("GET", "/dashboard/api/traces")[2]["traces"]
    assert "old-request" in {row["request_id"] for row in rows}


def test_claude_code_without_a_configured_model_is_answered(studio: Child, machine: Machine) -> None:
    tool = {"name": "read", "description": "Reads a file.", "input_schema": {"type": "object", "properties": {}}}
    body = {
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "Say hi."}],
        "tools": [tool],
    }
    status, headers, answer = machine.call("POST", "/v1/messages", body)
    assert status == 200, answer
    assert (answer["model"], headers["x-fleet-served-model"]) == ("claude-sonnet-4-5-20250929", TOOLS_MODEL)
    assert headers["x-fleet-node"] == "studio" and studio.is_running
