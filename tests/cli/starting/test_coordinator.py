"""The running coordinator has imported nothing that only other commands use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import signal, sys
from herd.cli import herd
from herd.cli.starting import coordinator

def started(*_):
    print(*sys.modules)
    signal.raise_signal(signal.SIGTERM)

coordinator._print_started = started
sys.argv = ["herd", "serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", sys.argv[1]]
herd()
"""
UNUSED = {
    *("typer", "click", "rich", "pydantic", "shellingham", "pip", "pytest", "numpy"),
    *(
        "herd.agent",
        "herd.cli.commands",
        "herd.cli.client",
        "herd.cli.terminal",
        "herd.cli.settings",
        "herd.cli.status",
    ),
}
ONLY_AT_THE_FIRST_START = {"cryptography", "_cffi_backend"}
"""The fleet gets its keys."""


@pytest.mark.skipif(sys.platform == "win32", reason="the process is ended with SIGTERM")
def test_the_coordinator_starts_without_typer_rich_and_the_agent(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    env |= {"FLEET_MDNS": "false", "FLEET_ENV_FILE": str(tmp_path / "none")}
    argv = [sys.executable, "-c", START, str(tmp_path / "data")]
    for unused in (UNUSED, UNUSED | ONLY_AT_THE_FIRST_START):
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        imported = set(done.stdout.split())
        assert "herd.coordinator.app" in imported, done.stderr
        assert imported & unused == set()
