"""Runs real llama.cpp servers with tiny models, one process each, so that tests can kill or freeze each of them.

with LlamaEngine() as engine:                   # engine.url, engine.child.pid, engine.child.kill() / freeze()
with llama_engines(12) as engines:              # started together, all healthy on entry
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from fakes.child_process import Child, DidNotStart, wait_until
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf

PROGRAM = Path(__file__).with_name("engine_process.py")
HAS_XLLAMACPP = importlib.util.find_spec("xllamacpp") is not None


@dataclass(frozen=True)
class EngineSettings:
    alias: str = "tiny"
    """The name under which /v1/models lists its model."""
    slots: int = 1
    context_tokens: int = 4096
    """The context window of each slot."""
    embedding: bool = False
    api_key: str = ""
    """The key that it requires, as with `llama-server --api-key`."""
    port: int = 0
    """0: the system chooses one."""


class LlamaEngine:
    """One server process; a context manager that waits on entry until the server is healthy."""

    def __init__(self, settings: EngineSettings | None = None, model: TinyModel | None = None) -> None:
        self.settings = settings or EngineSettings()
        self.model = model or TinyModel(embedding=self.settings.embedding)
        self.port = 0
        self.child: Child

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the process without waiting for it."""
        # -P: the program's folder is not on the path, because its modules could hide packages.
        path = str(tiny_gguf(self.model))
        self.child = Child([sys.executable, "-P", str(PROGRAM), path, json.dumps(asdict(self.settings))])

    def wait_healthy(self) -> None:
        """Returns when the server answers. Raises `DidNotStart`."""
        wait_until(self._has_port, "the engine's port")
        self.child.wait_for_get(self.port, "/health")

    def _has_port(self) -> bool:
        if not self.child.is_running:
            raise DidNotStart(f"ended with {self.child.returncode}: {self.child.output()[-2000:]}")
        found = re.search(r"^port (\d+)$", self.child.output(), re.MULTILINE)
        self.port = int(found[1]) if found else 0
        return self.port != 0

    def __enter__(self) -> LlamaEngine:
        self.start()
        try:
            self.wait_healthy()
        except BaseException:
            self.child.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self.child.is_running:
            self.child.thaw()
        self.child.stop()


@contextmanager
def llama_engines(count: int, settings: EngineSettings | None = None) -> Iterator[list[LlamaEngine]]:
    """Several engines with the same settings and model, started together."""
    engines = [LlamaEngine(settings) for _ in range(count)]
    with ExitStack() as started:
        for engine in engines:
            engine.start()
            started.callback(engine.__exit__)
        for engine in engines:
            engine.wait_healthy()
        yield engines
