"""Provides engines that require an API key, and answer requests without it as LM Studio 0.4 and vLLM do.

with KeyedEngine(VLLM_STYLE, "secret") as engine:     # engine.url, engine.key = "another", engine.seen
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from fakes.scripted.threaded_server import ThreadedServer
from fakes.scripted_engine import completion

Json = dict[str, Any]

LM_STUDIO_REFUSAL = {
    "error": {
        "type": "invalid_request",
        "code": "invalid_api_key",
        "message": "An LM Studio API token is required to make requests to this server, but none was provided using the"
        " Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN').",
    }
}


@dataclass(frozen=True)
class Style:
    """The kind of a server: its answers by path, and its refusal."""

    kind: str
    answers: dict[str, Json]
    refusal: Json
    open_paths: tuple[str, ...] = ()
    server: str = ""
    """Its `Server` header; empty: that of this fake, which is Python's own."""


VLLM_STYLE = Style(
    "vllm",
    {
        "/v1/models": {
            "object": "list",
            "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 4096}],
        },
        "/version": {"version": "0.11.0"},
    },
    {"error": "Unauthorized"},
    ("/version",),
)
LM_STUDIO_STYLE = Style(
    "lmstudio",
    {
        "/api/v0/models": {
            "object": "list",
            "data": [{"id": "m", "type": "llm", "state": "loaded", "loaded_context_length": 4096}],
        }
    },
    LM_STUDIO_REFUSAL,
)


class KeyedEngine(ThreadedServer):
    """A server in a thread. `seen` has the method, the path and the headers of each request, in lower case."""

    def __init__(self, style: Style, key: str) -> None:
        self.style = style
        self.key = key
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(_handler(self))

    def requests(self, path: str) -> list[dict[str, str]]:
        """The headers of each request for this path."""
        return [headers for _, asked, headers in self.seen if asked == path]


def _handler(engine: KeyedEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = engine.style.answers.get(self.path)
            self._answer(200 if answer else 404, answer or {"error": "not found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self._answer(200, completion(str(body.get("model")), "Hello"))

        def _answer(self, status: int, answer: Json) -> None:
            engine.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
            is_allowed = self.path in engine.style.open_paths or not engine.key
            if not is_allowed and self.headers.get("Authorization") != f"Bearer {engine.key}":
                status, answer = 401, engine.style.refusal
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def version_string(self) -> str:
            return engine.style.server or super().version_string()

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the output of the tests clean; they read `seen`."""

    return Handler
