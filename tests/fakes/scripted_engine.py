"""Provides an engine whose models, card and answers a test writes down, in a thread of its own.

with ScriptedEngine(lambda path, body: {"choices": [...]}) as engine, running_fleet({}) as fleet:
    engine.join(fleet, "one", [a_model_info("m", engine=engine.endpoint("vllm"))])
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

from builders import a_report, an_engine
from fakes.fleet import Fleet
from fakes.scripted.threaded_server import ThreadedServer
from herd.agent_protocol import heartbeat_encode
from herd.core.state.fleet import EngineEndpoint, ModelInfo

Json = dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """An error answer in OpenAI's format."""

    message: str
    status: int = 400

    @property
    def document(self) -> bytes:
        error = {"message": self.message, "type": "BadRequestError", "param": None, "code": self.status}
        return json.dumps({"error": error}).encode()


Answer = Json | Iterable[bytes] | Refused
Script = Callable[[str, Json], Answer]
"""From the path and the body of a request to a document, to the pieces of a stream, or to an error."""


def echo(_path: str, body: Json) -> Json:
    """A short chat answer of the model that was asked."""
    return completion(str(body.get("model")), "Hello")


def completion(model: str, text: str, reason: str = "stop") -> Json:
    """A complete answer in OpenAI's format."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}


def events(*chunks: Json) -> Iterator[bytes]:
    """The events of a stream in OpenAI's format, with its terminator."""
    for chunk in chunks:
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


class ScriptedEngine(ThreadedServer):
    """Call `join` to add it to a fleet; `requests` has the path and body of everything that it was asked."""

    def __init__(self, script: Script = echo) -> None:
        self.requests: list[tuple[str, Json]] = []
        super().__init__(_handler(script, self.requests))

    def endpoint(self, kind: str = "openai", slots: int = 4) -> EngineEndpoint:
        return an_engine(slots, kind, self.url)

    def join(self, fleet: Fleet, node_id: str, models: Sequence[ModelInfo], kind: str = "openai") -> None:
        """Adds a node with this engine and these models."""
        endpoint = self.endpoint(kind)
        listed = [replace(model, engine=endpoint) for model in models]
        report = a_report(node_id, listed, engines=(endpoint,))
        fleet.ask("POST", "/heartbeat", heartbeat_encode.encode(report, time.time()))


def _handler(script: Script, requests: list[tuple[str, Json]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            requests.append((self.path, body))
            answer = script(self.path, body)
            if isinstance(answer, Refused):
                self._document(answer.document, answer.status)
            elif isinstance(answer, dict):
                self._document(json.dumps(answer).encode())
            else:
                self._stream(answer)

        def _document(self, data: bytes, status: int = 200) -> None:
            self._begin("application/json", ("Content-Length", str(len(data))), status=status)
            self.wfile.write(data)

        def _stream(self, pieces: Iterable[bytes]) -> None:
            self._begin("text/event-stream", ("Connection", "close"))
            self.close_connection = True
            try:
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                return  # the coordinator has read enough

        def _begin(self, content_type: str, *headers: tuple[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in (("Content-Type", content_type), *headers):
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keeps the output of the tests clean; they read `requests`."""

    return Handler
