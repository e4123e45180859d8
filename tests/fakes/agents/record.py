"""Records the last request body of each agent and provider on the scripted task.

Run it in `.venv` with `PYTHONPATH=tests:src python -m fakes.agents.record` after a change of the pinned versions.
The bodies keep their structure and all short values. Long texts (prompts and descriptions, which belong to the agents'
makers) are replaced by their length, and everything that is different in every run or names a machine by a fixed value.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fakes.agents.install import find, versions
from fakes.agents.programs import PROVIDERS, Agent, ai_sdk, claude_code, codex, codex_with_patch_tool, opencode
from fakes.agents.stage import Stage

FOLDER = Path(__file__).parent.parent / "agent_bodies"
TEXT_MAX = 120
OURS_MAX = 600
"""For texts of the task itself, such as the patch."""
PLACE = "/home/user/project"
CHANGING = (
    (
        re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
        "00000000-0000-4000-8000-000000000000",
    ),
    (re.compile(r"\b[0-9a-f]{64}\b"), "0" * 64),
    (re.compile(r"\b20\d\d-\d\d-\d\d(T[\d:.]+Z)?"), "2026-01-01"),
)
AGENTS: dict[str, tuple[str, Agent, str]] = {
    "claude-code": ("@anthropic-ai/claude-code", claude_code, "vllm"),
    "codex": ("@openai/codex", codex, "vllm"),
    "codex-patch-tool": ("@openai/codex", codex_with_patch_tool, "vllm"),
    "opencode": ("opencode-ai", opencode, "openai"),
}
SDK_PACKAGES = {
    "openai-chat": "@ai-sdk/openai",
    "openai-compatible": "@ai-sdk/openai-compatible",
    "openai-responses": "@ai-sdk/openai",
    "anthropic": "@ai-sdk/anthropic",
    "ollama": "ollama-ai-provider-v2",
}


def anonymous(value: Any, folder: str) -> Any:
    """The same structure without long texts, paths and values of one run."""
    if isinstance(value, dict):
        return {name: anonymous(part, folder) for name, part in value.items()}
    if isinstance(value, list):
        return [anonymous(part, folder) for part in value]
    if not isinstance(value, str):
        return value
    text = value.replace(folder, PLACE)
    for pattern, fixed in CHANGING:
        text = pattern.sub(fixed, text)
    is_ours = len(text) < OURS_MAX and ("*** Begin Patch" in text or PLACE in text)
    return text if is_ours or len(text) <= TEXT_MAX else f"{text[:20]}... ({len(text)} characters)"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    runs = dict(AGENTS)
    for provider in PROVIDERS:
        name = f"ai-sdk-{provider}" if provider != "ollama" else "ai-sdk-ollama-provider"
        runs[name] = (SDK_PACKAGES[provider], ai_sdk(provider, True, wants_shape=False), "ollama")
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        stage = Stage(find(), Path(name), stack)
        for client, (package, agent, kind) in runs.items():
            played = stage.direct(agent, kind)
            last = played.requests[-1]
            body = anonymous(json.loads(last.body), str(played.task.folder))
            record = {"client": client, "version": versions()[package], "path": last.path, "body": body}
            target = FOLDER / f"{client}-{versions()[package]}.json"
            target.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            sys.stdout.write(f"{target.name}: {played.ended.text}\n")


if __name__ == "__main__":
    main()
