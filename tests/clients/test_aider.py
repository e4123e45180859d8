"""The real aider edits a file through herd with nothing but what `herd connect aider --write` wrote.

It has no tools: its model answers with the whole file, which aider writes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from builders import a_model_info
from fakes.agents import real_aider
from fakes.agents.outside import Outside
from fakes.fleet import running_fleet, settings_of_steady_nodes
from fakes.scripted_engine import ScriptedEngine, completion, events
from terminal import herd

Json = dict[str, Any]

MODEL = "qwen3:8b"
WINDOW_TOKENS = 32_768
LIMIT_S = 240.0
OWN = "# mine\ndark-mode: true\nmodel: gpt-4o  # before\n"
NEW = 'The sky is blue: naïve "quotes", \\ and 東京.'
ANSWER = f"notes.txt\n```\nA note.\n{NEW}\n```\n"


@pytest.fixture
def aider() -> Path:
    try:
        return real_aider.find()
    except real_aider.Unavailable as why:
        pytest.skip(str(why))


def whole_file(_path: str, body: Json) -> Json | Iterable[bytes]:
    """An answer in the format that aider asks models for that it does not know."""
    if not body.get("stream"):
        return completion(body["model"], ANSWER)
    head: Json = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    pieces = [{"delta": {"content": ANSWER[at : at + 7]}, "finish_reason": None} for at in range(0, len(ANSWER), 7)]
    ends = [{"delta": {}, "finish_reason": "stop"}]
    return events(*({**head, "choices": [{"index": 0, **piece}]} for piece in [*pieces, *ends]))


@pytest.mark.parametrize("needs_key", [False, True])
def test_aider_edits_a_file_with_what_connect_wrote(aider: Path, tmp_path: Path, needs_key: bool) -> None:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    (home / ".aider.conf.yml").write_text(OWN)
    (folder / "notes.txt").write_text("A note.\nThe sky is green.\n")
    settings = settings_of_steady_nodes()
    with Outside() as outside, ScriptedEngine(whole_file) as engine, running_fleet({}, settings=settings) as fleet:
        loaded = a_model_info(MODEL, 5.0, True, WINDOW_TOKENS, context_max_tokens=WINDOW_TOKENS)
        engine.join(fleet, "one", [loaded], "vllm")
        if needs_key:
            fleet.ask("POST", "/fleet/keys", json.dumps({"name": "somebody else"}).encode())
        basic = {"PATH": os.defpath, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
        environment = {**basic, **outside.environment}
        written = herd("connect", "aider", "--write", url=fleet.url, env=environment)
        assert written.status == 0, written.err
        assert "dark-mode: true" in (home / ".aider.conf.yml").read_text()
        command = [str(aider), "-m", "aider", "--yes-always", "--no-git", "--message", "The sky is blue.", "notes.txt"]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environment, "AIDER_ANALYTICS": "false", "AIDER_CHECK_UPDATE": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (folder / "notes.txt").read_text("utf-8") == f"A note.\n{NEW}\n", done.stdout
        assert "Applied edit to notes.txt" in done.stdout
        assert {body["model"] for _, body in engine.requests} == {MODEL}
        undone = herd("connect", "aider", "--undo", "--force", url=fleet.url, env=environment)
        assert undone.status == 0 and (home / ".aider.conf.yml").read_text() == OWN, undone.err
