"""Starts a real Ollama with its own port, model folder and tiny models.

`find_ollama()` checks OLLAMA_BIN, PATH and the cache of tests/live/install_ollama.py, in this order.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from fakes.child_process import Child, DidNotStart, free_port
from fakes.llamacpp.tiny_gguf import TinyModel, cache_folder, tiny_gguf

CHAT_MODEL = "tiny:chat"
OTHER_MODEL = "tiny:other"
EMBED_MODEL = "tiny:embed"
TOOLS_MODEL = "tiny:tools"
ENDLESS_TOKENS = 10_000_000

TOOLS_TEMPLATE = (
    "{{ if .Tools }}<|im_start|>system\n{{ range .Tools }}{{ .Function }}{{ end }}<|im_end|>\n{{ end }}"
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}{{ range .ToolCalls }}"
    '{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}<|im_end|>\n{{ end }}'
    "<|im_start|>assistant\n"
)

NOT_FOUND = (
    "LIVE TESTS SKIPPED: no real Ollama found; set OLLAMA_BIN, put `ollama` on PATH, "
    "or run `python tests/live/install_ollama.py` (needs Go)"
)


def find_ollama() -> str | None:
    """The path of an Ollama program, or None."""
    configured = os.environ.get("OLLAMA_BIN")
    if configured:
        return configured if Path(configured).exists() else None
    installed = sorted(cache_folder().parent.glob("ollama-*/bin/ollama"))
    complete = [path for path in installed if (path.parent.parent / "lib/ollama/llama-server").exists()]
    return shutil.which("ollama") or (str(complete[-1]) if complete else None)


class RealOllama:
    """A running server with the models listed above; a context manager."""

    def __init__(self, binary: str, settings: Mapping[str, str] | None = None, port: int = 0) -> None:
        """With `port` 0, on a free port."""
        self._folder = tempfile.TemporaryDirectory(prefix="herd-live-")
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            "HOME": self._folder.name,
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(Path(self._folder.name) / "models"),
            "OLLAMA_NO_CLOUD": "1",
            **(settings or {}),
        }
        self.child = Child([binary, "serve"], environment)

    def __enter__(self) -> RealOllama:
        try:
            self.child.wait_for_get(self.port, "/api/version")
            self._make_models()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runners = self.runners()
        self.child.stop()
        for runner in runners:
            # A runner ends by itself when its server ends, also between a question whether it runs and the signal.
            with suppress(psutil.NoSuchProcess):
                runner.kill()
        psutil.wait_procs(runners, timeout=10)
        self._folder.cleanup()

    @property
    def store(self) -> Path:
        """The folder of its models."""
        return Path(self._folder.name) / "models"

    def runners(self) -> list[psutil.Process]:
        """Its llama-server processes. A reload changes the process id."""
        try:
            return list(psutil.Process(self.child.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def loads(self) -> int:
        """How often it has loaded a model until now, by its log."""
        return self.child.output().count('msg="starting llama-server"')

    def _make_models(self) -> None:
        # Answers do not end without a limit, so a short limit ends all of them in the same way.
        self.create(CHAT_MODEL, tiny_gguf(TinyModel(seed=1, mean_tokens=ENDLESS_TOKENS)))
        self.create(OTHER_MODEL, tiny_gguf(TinyModel(seed=2, mean_tokens=ENDLESS_TOKENS)))
        self.create(EMBED_MODEL, tiny_gguf(TinyModel(embedding=True)))
        self.create(TOOLS_MODEL, tiny_gguf(TinyModel(seed=3, mean_tokens=ENDLESS_TOKENS)), template=TOOLS_TEMPLATE)

    def create(self, name: str, path: Path, **more: Any) -> None:
        """Uploads a GGUF file as a blob and creates a model from it. Raises `DidNotStart` with the server's message."""
        content = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.ask("POST", f"/api/blobs/{digest}", content)
        order = {"model": name, "files": {path.name: digest}, "stream": False, **more}
        self.ask("POST", "/api/create", json.dumps(order).encode())

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One call of the server's API that must succeed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise DidNotStart(f"{method} {path}: {response.status} {answer[:500]!r}")
        return answer
