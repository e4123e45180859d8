"""Provides `ScriptedEngine`, a server of one kind whose model is the script in `task.py`.

    with ScriptedEngine(Kind.VLLM) as engine:       # in its own thread
        ...                                         # engine.url, engine.requests

Each kind has the paths, the model list and the strictness of the real server. Ollama's kind is `FakeOllama` with
`scripted_model()`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from fakes.http_server import Connection, Incoming, Outgoing
from fakes.loop_thread import LoopThread
from fakes.scripted import chat, messages, responses
from fakes.scripted.chat import Refused
from fakes.scripted.task import Json, Move, Seen, decide

MODEL = "scripted"
WINDOW_TOKENS = 131_072
JSON_TYPE = ("Content-Type", "application/json")
EVENT_TYPE = ("Content-Type", "text/event-stream; charset=utf-8")


class Kind(Enum):
    """The server that is imitated."""

    OPENAI = "openai"
    """Only the oldest paths."""
    VLLM = "vllm"
    """Serves Anthropic's API and Responses too, but its Responses know only functions."""
    LLAMACPP = "llamacpp"
    """Serves them too, but its Responses take only functions, and its first stream events lack fields."""


@dataclass(frozen=True)
class Api:
    """Reading and writing of one API."""

    read: Callable[[Json], Seen]
    whole: Callable[[Json, Move, int], Json]
    stream: Callable[[Json, Move, int], Iterator[bytes]]


def llamacpp_responses(body: Json, move: Move, size: int) -> Iterator[bytes]:
    """llama.cpp's first events name only the id, the object and the status."""
    for fields in responses.events(body, move, size):
        if fields["type"] in ("response.created", "response.in_progress"):
            short = {name: fields["response"][name] for name in ("id", "object", "status")}
            fields = fields | {"response": short}
        yield chat.event(fields, fields["type"])


def functions_only(body: Json) -> Seen:
    """llama.cpp refuses every other kind of tool."""
    if any(tool["type"] != "function" for tool in body.get("tools") or []):
        raise Refused("'type' of tool must be 'function'")
    return responses.read(body)


def without_other_tools(body: Json) -> Seen:
    """vLLM leaves out every other kind of tool in silence, and fails on items of such tools."""
    for item in body["input"] if isinstance(body.get("input"), list) else []:
        if item.get("encrypted_content"):
            raise Refused("Encrypted content is not supported.")
        if item.get("type", "message") not in ("message", "function_call", "function_call_output", "reasoning"):
            raise Refused("'role'")
    tools = [tool for tool in body.get("tools") or [] if tool["type"] in ("function", "namespace")]
    return responses.read({**body, "tools": tools})


CHAT = Api(chat.read, chat.whole, chat.stream)
MESSAGES = Api(messages.read, messages.whole, messages.stream)
VLLM_RESPONSES = Api(without_other_tools, responses.whole, responses.stream)
APIS: dict[Kind, dict[str, Api]] = {
    Kind.OPENAI: {"/v1/chat/completions": CHAT},
    Kind.VLLM: {"/v1/chat/completions": CHAT, "/v1/messages": MESSAGES, "/v1/responses": VLLM_RESPONSES},
    Kind.LLAMACPP: {
        "/v1/chat/completions": CHAT,
        "/v1/messages": MESSAGES,
        "/v1/responses": Api(functions_only, responses.whole, llamacpp_responses),
    },
}
LISTED: dict[Kind, Json] = {
    Kind.OPENAI: {"id": MODEL, "object": "model", "created": 1_795_425_116, "owned_by": "someone"},
    Kind.VLLM: {
        "id": MODEL,
        "object": "model",
        "created": 1_795_425_116,
        "owned_by": "vllm",
        "root": MODEL,
        "parent": None,
        "max_model_len": WINDOW_TOKENS,
    },
    Kind.LLAMACPP: {
        "id": MODEL,
        "object": "model",
        "created": 1_795_425_116,
        "owned_by": "llamacpp",
        "meta": {"n_ctx_train": WINDOW_TOKENS, "n_ctx": WINDOW_TOKENS, "n_params": 135_000_000, "size": 98_000_000},
    },
}
PAGES: dict[Kind, dict[str, Json | list[Json]]] = {
    Kind.OPENAI: {},
    Kind.VLLM: {"/version": {"version": "0.13.0"}, "/health": {}},
    Kind.LLAMACPP: {
        "/props": {
            "default_generation_settings": {"n_ctx": WINDOW_TOKENS},
            "total_slots": 4,
            "build_info": "b11549-0",
            "chat_template": "<think>",
            "chat_template_caps": {"supports_tools": True},
            "modalities": {"vision": False, "audio": False},
        },
        "/slots": [{"id": 0, "is_processing": False}],
        "/health": {"status": "ok"},
    },
}


@dataclass(frozen=True)
class Served:
    """One request and the status of its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 0


class ScriptedEngine:
    """See the docstring of this module."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.port = 0
        self.requests: list[Served] = []
        self._connections: set[Connection] = set()
        self._thread = LoopThread()
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ScriptedEngine:
        self._thread.run(self._listen())
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.run(self._close())
        self._thread.stop()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._answer, self._connections), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.close()

    async def _answer(self, request: Incoming, out: Outgoing) -> None:
        served = Served(request.method, request.path, request.headers, request.body)
        try:
            await self._route(request, out)
        finally:
            self.requests.append(replace(served, status=out.status))

    async def _route(self, request: Incoming, out: Outgoing) -> None:
        api = APIS[self.kind].get(request.path)
        page = self._page(request)
        if request.method == "POST" and api is not None:
            await infer(api, request, out)
        elif page is not None:
            await send(out, 200, page)
        else:
            await send(out, 404, {"detail": "Not Found"})

    def _page(self, request: Incoming) -> Any:
        if request.method == "GET" and request.path == "/v1/models":
            return {"object": "list", "data": [LISTED[self.kind]]}
        if request.method == "POST" and request.path == "/v1/messages/count_tokens" and self.kind is Kind.LLAMACPP:
            return {"input_tokens": len(request.body) // 4}
        return PAGES[self.kind].get(request.path) if request.method == "GET" else None


async def send(out: Outgoing, status: int, value: Any) -> None:
    await out.whole(status, [JSON_TYPE], json.dumps(value, ensure_ascii=False).encode())


async def infer(api: Api, request: Incoming, out: Outgoing) -> None:
    """Answers with the script's next move, in one piece or as a stream."""
    body = json.loads(request.body)
    if body.get("model") != MODEL:
        message = f"The model `{body.get('model')}` does not exist."
        await send(out, 404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
        return
    try:
        move = decide(api.read(body))
    except Refused as refused:
        await send(out, 400, {"error": {"message": str(refused), "type": "BadRequestError", "code": 400}})
        return
    if not body.get("stream"):
        await send(out, 200, api.whole(body, move, len(request.body)))
        return
    await out.begin(200, [EVENT_TYPE])
    for data in api.stream(body, move, len(request.body)):
        await out.chunk(data)
    await out.end()
