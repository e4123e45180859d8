"""Plays a new user on a machine of its own: real programs on their usual ports, and no file that the user edits.

Usage, inside an empty network namespace: python new_user.py HOME OLLAMA OLLAMA_HERD [CLAUDE_CODE]. It prints what the
user saw as JSON. The home folder already has the files of ollama-herd: its environment file and its database.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.agents.install import find as find_agents
from fakes.agents.outside import Outside
from fakes.agents.programs import Ask, Place, claude_code_unconfigured
from fakes.child_process import Child, wait_until
from fakes.llamacpp.engines import EngineSettings as LlamaSettings
from fakes.llamacpp.engines import LlamaEngine
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf
from fakes.real_ollama import TOOLS_TEMPLATE, RealOllama
from fakes.real_ollama_herd import environment as its_environment

ENGINE_KEY = "sk-of-the-engine"
PORT = 11435
THEIR_OLLAMA_PORT = 11500
"""The Ollama of the agent of ollama-herd, which would be on a machine of its own."""
START_LIMIT_S = 120.0
Json = dict[str, Any]


@dataclass
class NewUser:
    home: Path
    ollama: str
    ollama_herd: Path
    has_claude_code: bool
    stack: ExitStack
    seen: Json = field(default_factory=dict)

    def run(self) -> Json:
        self._start_engines()
        self._start("herd").wait_for_get(PORT, "/health", START_LIMIT_S)
        self._join_this_machine()
        self._join_ollama_herd()
        self._ask_every_model()
        if self.has_claude_code:
            self._ask_with_claude_code()
        # An older database is summed up in the background.
        self.seen["old_requests"] = self._get("/dashboard/api/usage/lines?by=model&range=30d")
        self.seen["health"] = self._herd("health").stdout
        self.seen["heartbeats_refused"] = self.studio.output().count("Heartbeat response: HTTP") - self.seen["refused"]
        return self.seen

    def _start_engines(self) -> None:
        for port, name in ((11434, "one"), (11436, "two"), (THEIR_OLLAMA_PORT, "theirs")):
            engine = self.stack.enter_context(RealOllama(self.ollama, port=port))
            model = TinyModel(seed=5, mean_tokens=4, context_tokens=131_072, layers=1)
            engine.create(f"agent-{name}", tiny_gguf(model), template=TOOLS_TEMPLATE)
        self.stack.enter_context(LlamaEngine(LlamaSettings("keyed-model", api_key=ENGINE_KEY, port=8080)))

    def _join_this_machine(self) -> None:
        """Without the engine's key a finding names the setting that has to have it."""
        agent = self._start("herd-node")
        wait_until(lambda: "requires an API key" in self._herd("health").stdout, "the finding", START_LIMIT_S)
        self.seen["health_without_key"] = self._herd("health").stdout
        agent.stop()
        self._start("herd-node", FLEET_NODE_ENGINE_KEY=ENGINE_KEY)
        wait_until(lambda: "keyed-model" in self._models(), "the models of this machine", START_LIMIT_S)

    def _join_ollama_herd(self) -> None:
        """The user runs the command that `herd nodes` prints."""
        settings = its_environment(self.home, FLEET_NODE_HEARTBEAT_INTERVAL="0.5", PYTHONUNBUFFERED="1")
        command = [str(self.ollama_herd / "herd-node"), "--router-url", f"http://127.0.0.1:{PORT}"]
        command += ["--ollama-host", f"http://127.0.0.1:{THEIR_OLLAMA_PORT}"]
        self.studio = self.stack.enter_context(Child(command, settings))
        wait_until(lambda: "herd nodes approve" in self._herd("nodes").stdout, "the pending node", START_LIMIT_S)
        self.seen["pending"] = self._herd("nodes").stdout
        [approve] = re.findall(r"^ +herd (nodes approve \S+)$", self.seen["pending"], re.MULTILINE)
        self.seen["approved"] = self._herd(*shlex.split(approve)).stdout
        self.seen["refused"] = self.studio.output().count("Heartbeat response: HTTP")
        wait_until(lambda: "agent-theirs:latest" in self._models(), "the models of ollama-herd's agent", START_LIMIT_S)
        self.seen["nodes"] = {one["node_id"]: one for one in self._get("/fleet/status")["nodes"]}
        self.seen["nodes_printed"] = self._herd("nodes").stdout

    def _ask_every_model(self) -> None:
        turn = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 8}
        self.seen["answers"] = {
            f"{model} {path}": self._post(path, {"model": model, **turn, "stream": False})
            for model in ("agent-one", "agent-two", "agent-theirs", "keyed-model")
            for path in ("/api/chat", "/v1/chat/completions", "/v1/messages")
        }

    def _ask_with_claude_code(self) -> None:
        project = self.home / "project"
        project.mkdir()
        with Outside() as outside:
            place = Place(find_agents(), self.home / "claude", outside)
            ended = claude_code_unconfigured(place, Ask(f"http://127.0.0.1:{PORT}", "", "Say hi.", project))
        self.seen["claude_code"] = [ended.returncode, ended.output[-3000:]]
        self.seen["traces"] = self._get("/dashboard/api/traces?limit=20")["traces"]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        """Nothing but what every shell has."""
        return {"HOME": str(self.home), "PATH": os.defpath, "COLUMNS": "160", "LANG": "C.UTF-8", **more}

    def _start(self, program: str, **more: str) -> Child:
        command = ["env", "-i", *(f"{name}={value}" for name, value in self._environment(more).items())]
        return self.stack.enter_context(Child([*command, str(Path(sys.executable).with_name(program))]))

    def _herd(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("herd")), *words]
        return subprocess.run(command, env=self._environment({}), capture_output=True, text=True, check=False)

    def _models(self) -> list[str]:
        return [model["id"] for model in self._get("/v1/models")["data"]]

    def _get(self, path: str) -> Json:
        return self._call("GET", path, None)[1]

    def _post(self, path: str, body: Json) -> list[Any]:
        return list(self._call("POST", path, body))

    @staticmethod
    def _call(method: str, path: str, body: Json | None) -> tuple[int, Json]:
        with closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    home, ollama, ollama_herd, *claude_code = sys.argv[1:]
    with ExitStack() as stack:
        seen = NewUser(Path(home), ollama, Path(ollama_herd), bool(claude_code), stack).run()
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
