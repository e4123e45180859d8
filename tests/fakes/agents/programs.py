"""Runs one agent once on a task: its settings for a server at `url`, and what it printed.

Each gets its own home folder and only these environment variables, so that neither the user's settings nor the user's
keys have an effect. Updates, telemetry and other requests to its maker are off; `outside.py` checks that.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.agents.install import Agents
from fakes.agents.outside import Outside

Json = dict[str, Any]

LIMIT_S = 240.0
AI_SDK = Path(__file__).with_name("ai_sdk.mjs")
NODE_CLIENTS = Path(__file__).with_name("node_clients.mjs")
PROVIDERS = ("openai-chat", "openai-compatible", "openai-responses", "anthropic", "ollama")
"""The providers of the AI SDK in ai_sdk.mjs."""


@dataclass(frozen=True)
class Place:
    """Where an agent runs: the installed programs, an empty home folder, and the proxy for all other addresses."""

    agents: Agents
    home: Path
    outside: Outside

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        path = os.pathsep.join((str(self.agents.node.parent), os.environ.get("PATH", os.defpath)))
        xdg = {f"XDG_{name}_HOME": str(self.home / name.lower()) for name in ("CONFIG", "DATA", "CACHE", "STATE")}
        base = {"PATH": path, "HOME": str(self.home), "LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1"}
        return {**base, **xdg, **self.outside.environment, **more}


@dataclass(frozen=True)
class Ask:
    """What an agent is asked: the server's URL without /v1, the model, the prompt and the folder to work in."""

    url: str
    model: str
    prompt: str
    folder: Path


@dataclass(frozen=True)
class Ended:
    """How an agent ended. `text` is its last message to the user."""

    returncode: int
    text: str
    output: str
    answer: Json = field(default_factory=dict)
    """What the AI SDK's script printed."""


Agent = Callable[[Place, Ask], Ended]


def start(place: Place, ask: Ask, command: Sequence[str | Path], more: dict[str, str]) -> tuple[int, str, str]:
    """The exit status, the standard output and the error output."""
    place.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        program = subprocess.Popen(
            [str(part) for part in command],
            cwd=ask.folder,
            env=place.environment(more),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        try:
            program.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            err.write(f"ended after {LIMIT_S} s".encode())
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
    return program.returncode, texts[0], texts[1]


def json_lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


CLAUDE_CODE = {
    "ANTHROPIC_AUTH_TOKEN": "unused",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "IS_SANDBOX": "1",
}
"""The last one permits `bypassPermissions` for root in a container."""


def claude_code(place: Place, ask: Ask) -> Ended:
    return run_claude_code(place, ask, dict.fromkeys(("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"), ask.model))


def claude_code_unconfigured(place: Place, ask: Ask) -> Ended:
    """It asks for the models of its maker."""
    return run_claude_code(place, ask, {})


def run_claude_code(place: Place, ask: Ask, models: dict[str, str]) -> Ended:
    program = place.agents.package("@anthropic-ai/claude-code") / "bin" / "claude.exe"
    flags = ("--output-format", "json", "--permission-mode", "bypassPermissions")
    settings = {**CLAUDE_CODE, **models, "ANTHROPIC_BASE_URL": ask.url}
    status, out, err = start(place, ask, [program, "-p", ask.prompt, *flags], settings)
    results = [line for line in json_lines(out) if line.get("type") == "result"]
    return Ended(status, str(results[-1].get("result")) if results else "", out + err)


def codex(place: Place, ask: Ask) -> Ended:
    """With a model that Codex does not know: it edits by `apply_patch` in a command."""
    return run_codex(place, ask, "")


def codex_with_patch_tool(place: Place, ask: Ask) -> Ended:
    """With the description of a model that has the tool `apply_patch`, whose input is a text in a grammar."""
    program = place.agents.package("@openai/codex") / "bin" / "codex.js"
    _, out, _ = start(place, ask, [place.agents.node, program, "debug", "models"], {"CODEX_HOME": str(place.home)})
    known = next(model for model in json.loads(out)["models"] if model["slug"] == "gpt-5.5")
    catalog = place.home / "models.json"
    catalog.write_text(json.dumps({"models": [{**known, "slug": ask.model, "display_name": ask.model}]}))
    return run_codex(place, ask, f"model_catalog_json = {json.dumps(str(catalog))}\n")


def run_codex(place: Place, ask: Ask, more: str) -> Ended:
    place.home.mkdir(parents=True, exist_ok=True)
    (place.home / "config.toml").write_text(
        f'model = "{ask.model}"\nmodel_provider = "herd"\ncheck_for_update_on_startup = false\n{more}'
        "[analytics]\nenabled = false\n[features]\nplugins = false\nremote_plugin = false\napps = false\n"
        f'[model_providers.herd]\nname = "herd"\nbase_url = "{ask.url}/v1"\nwire_api = "responses"\n'
        "request_max_retries = 0\nstream_max_retries = 0\n"
    )
    program = place.agents.package("@openai/codex") / "bin" / "codex.js"
    flags = ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    command = [place.agents.node, program, "exec", *flags, ask.prompt]
    status, out, err = start(place, ask, command, {"CODEX_HOME": str(place.home)})
    items = [line["item"] for line in json_lines(out) if line.get("type") == "item.completed"]
    texts = [item["text"] for item in items if item["type"] == "agent_message"]
    return Ended(status, texts[-1] if texts else "", out + err)


OPENCODE = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "npm_config_offline": "true",
    "npm_config_fetch_retries": "0",
}


def opencode(place: Place, ask: Ask) -> Ended:
    program = place.agents.package("opencode-ai") / "bin" / "opencode.exe"
    model = {"name": ask.model, "tool_call": True, "limit": {"context": 131_072, "output": 8192}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "herd",
        "options": {"baseURL": f"{ask.url}/v1", "apiKey": "unused"},
        "models": {ask.model: model},
    }
    config = {
        "autoupdate": False,
        "share": "disabled",
        "model": f"herd/{ask.model}",
        "small_model": f"herd/{ask.model}",
        "permission": {"edit": "allow", "bash": "allow", "external_directory": "allow"},
        "provider": {"herd": provider},
    }
    settings = {**OPENCODE, "OPENCODE_CONFIG_CONTENT": json.dumps(config)}
    status, out, err = start(place, ask, [program, "run", "--format", "json", ask.prompt], settings)
    texts = [line["part"]["text"] for line in json_lines(out) if line.get("type") == "text"]
    return Ended(status, texts[-1] if texts else "", out + err)


def ai_sdk(provider: str, streams: bool, stores: bool = False, wants_shape: bool = True) -> Agent:
    """The AI SDK with one of `PROVIDERS`; `stores` leaves earlier answers of Responses to the server."""

    def run(place: Place, ask: Ask) -> Ended:
        asked = {"url": ask.url, "model": ask.model, "provider": provider, "prompt": ask.prompt}
        how = {"streams": streams, "stores": stores, "shape": wants_shape}
        command = [place.agents.node, AI_SDK, json.dumps(asked | how)]
        status, out, err = start(place, ask, command, {"HERD_AGENTS": str(place.agents.folder)})
        answers = json_lines(out)
        answer = answers[-1] if answers else {}
        return Ended(status, answer.get("text", ""), out + err, answer)

    return run


def node_client(client: str, embedder: str = "") -> Agent:
    """The libraries `openai` and `ollama` for Node with one of the clients in node_clients.mjs."""

    def run(place: Place, ask: Ask) -> Ended:
        asked = {"url": ask.url, "model": ask.model, "client": client, "prompt": ask.prompt, "embedder": embedder}
        command = [place.agents.node, NODE_CLIENTS, json.dumps(asked)]
        status, out, err = start(place, ask, command, {"HERD_AGENTS": str(place.agents.folder)})
        answers = json_lines(out)
        answer = answers[-1] if answers else {}
        return Ended(status, answer.get("text", ""), out + err, answer)

    return run
