"""Provides `EngineProcess`, a scripted engine in a process of its own.

    with EngineProcess("vllm") as engine:       # engine.url, engine.answered(), engine.reloads

It shares no memory and no interpreter with the server under test. The process reads lines from its standard input
and answers each with one line of JSON: everything that it was asked so far. It ends with its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from fakes.ollama.server import FakeOllama
from fakes.scripted.engines import OWN_WINDOW_TOKENS, Answered, inference, scripted_engine

TESTS = Path(__file__).parents[2]
END_LIMIT_S = 10.0


class EngineProcess:
    """See the docstring of this module. `window_tokens` is Ollama's default window."""

    def __init__(self, kind: str, window_tokens: int = OWN_WINDOW_TOKENS) -> None:
        self.kind = kind
        self.port = 0
        self._command = [sys.executable, "-m", "fakes.scripted.process", kind, str(window_tokens)]
        self._process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answered(self) -> list[Answered]:
        """Its POST requests so far."""
        return [Answered(path, body.encode("latin-1"), status) for path, body, status in self._state()["requests"]]

    @property
    def reloads(self) -> int:
        """How often a loaded model was loaded again; 0 for engines that never do."""
        return int(self._state()["reloads"])

    def _state(self) -> dict[str, Any]:
        given, printed = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        given.write("\n")
        given.flush()
        state = json.loads(printed.readline())
        assert isinstance(state, dict)
        return state

    def __enter__(self) -> EngineProcess:
        paths = os.pathsep.join((str(TESTS), str(TESTS.parent / "src")))
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._state()["port"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            cast(IO[str], pipe).close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(kind: str, window_tokens: str) -> None:
    with scripted_engine(kind, int(window_tokens)) as engine:
        for _ in sys.stdin:
            requests = [(one.path, one.body.decode("latin-1"), one.status) for one in inference(engine)]
            reloads = engine.reloads if isinstance(engine, FakeOllama) else 0
            print(json.dumps({"port": engine.port, "requests": requests, "reloads": reloads}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
