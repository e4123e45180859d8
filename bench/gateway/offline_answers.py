"""The requests and the engines' answers of the offline measurement: every pair of a client's and an engine's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from bench.gateway.instruments import SENTENCE
from bench.gateway.scenarios import ANTHROPIC_URL_PATH, OLLAMA_URL_PATH, OPENAI_URL_PATH, RESPONSES_URL_PATH, body

TOKEN = " grass"
"""The text of every chunk of a stream."""
MODELS = {"vllm": "bench", "ollama": "bench-ollama", "llamacpp": "bench-llamacpp"}
"""The model of each engine: its name decides to which engine a request goes."""


@dataclass(frozen=True, slots=True)
class Script:
    """An engine's stream: events before the first text, one chunk of text, and the events after the last text."""

    content_type: str
    first: str
    chunk: str
    last: str

    def reads(self, chunks: int, per_read: int) -> list[bytes]:
        """The bytes of the answer in HTTP's chunked form, split into the reads in which they arrive."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {self.content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        # Every text is another one, as in real streams.
        pieces = [_http_chunk(self.chunk.replace(TOKEN, TOKEN + "s" * (number % 4))) for number in range(chunks)]
        middle = [b"".join(pieces[at : at + per_read]) for at in range(0, chunks, per_read)]
        first = _http_chunk(self.first) if self.first else b""
        return [head + first + _http_chunk(self.chunk), *middle, _http_chunk(self.last) + b"0\r\n\r\n"]


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of APIs. `whole` is the engine's answer that is not streamed; without one only streams are measured."""

    key: str
    url_path: str
    engine: str
    is_passed: bool
    script: Script
    whole: str = ""

    def request(self, stream: bool) -> bytes:
        return json.dumps(body(self.url_path, MODELS[self.engine], stream)).encode()

    def whole_reads(self) -> list[bytes]:
        content = self.whole.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        return [head + content]


def _http_chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _events(*events: dict[str, object], named: bool) -> str:
    return "".join((f"event: {e['type']}\n" if named else "") + f"data: {_compact(e)}\n\n" for e in events)


def _compact(members: dict[str, object]) -> str:
    """JSON without blanks, as vLLM, llama.cpp and Ollama write it."""
    return json.dumps(members, separators=(",", ":"))


# --- answers ---


def _openai(delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    common = {"id": "chatcmpl-0001", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench"}
    return {**common, "choices": [choice]}


_OPENAI = Script(
    "text/event-stream",
    _events(_openai({"role": "assistant", "content": ""}), named=False),
    _events(_openai({"content": TOKEN}), named=False),
    _events(_openai({}, "stop"), named=False) + "data: [DONE]\n\n",
)
_OPENAI_WHOLE = _compact(
    {
        "id": "chatcmpl-0001",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": SENTENCE * 3}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 190, "completion_tokens": 64, "total_tokens": 254},
    }
)
_OLLAMA_END = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 900000000,
    "load_duration": 1000000,
    "prompt_eval_count": 190,
    "prompt_eval_duration": 100000000,
    "eval_count": 64,
    "eval_duration": 799000000,
}


def _ollama(text: str, end: dict[str, object]) -> str:
    message = {"role": "assistant", "content": text}
    line = {"model": "bench-ollama", "created_at": "2026-01-01T00:00:00.000000000Z", "message": message, **end}
    return _compact(line)


_OLLAMA = Script(
    "application/x-ndjson", "", _ollama(TOKEN, {"done": False}) + "\n", _ollama("", {**_OLLAMA_END}) + "\n"
)
_USAGE: dict[str, object] = {"input_tokens": 190, "output_tokens": 64}
_ANTHROPIC = Script(
    "text/event-stream",
    _events(
        {
            "type": "message_start",
            "message": {
                "id": "msg-0001",
                "type": "message",
                "role": "assistant",
                "content": [],
                "model": "bench",
                "usage": _USAGE,
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        named=True,
    ),
    _events({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TOKEN}}, named=True),
    _events(
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": _USAGE},
        {"type": "message_stop"},
        named=True,
    ),
)
_ITEM = {"item_id": "msg-0001", "output_index": 0, "content_index": 0}
_RESPONSE = {"id": "resp-0001", "object": "response", "created_at": 1700000000, "model": "bench", "output": []}
_RESPONSES = Script(
    "text/event-stream",
    _events(
        {"type": "response.created", "sequence_number": 0, "response": {**_RESPONSE, "status": "in_progress"}},
        named=True,
    ),
    _events({"type": "response.output_text.delta", "sequence_number": 4, **_ITEM, "delta": TOKEN}, named=True),
    _events(
        {
            "type": "response.completed",
            "sequence_number": 9,
            "response": {**_RESPONSE, "status": "completed", "usage": {**_USAGE, "total_tokens": 254}},
        },
        named=True,
    ),
)


def _cases() -> Iterator[Case]:
    chat, ollama, messages, responses = OPENAI_URL_PATH, OLLAMA_URL_PATH, ANTHROPIC_URL_PATH, RESPONSES_URL_PATH
    yield Case("openai", chat, "vllm", True, _OPENAI, _OPENAI_WHOLE)
    yield Case("ollama", ollama, "ollama", True, _OLLAMA, _ollama(SENTENCE * 3, {**_OLLAMA_END}))
    yield Case("anthropic", messages, "llamacpp", True, _ANTHROPIC)
    yield Case("responses", responses, "vllm", True, _RESPONSES)
    yield Case("openai-on-ollama", chat, "ollama", False, _OLLAMA, _ollama(SENTENCE * 3, {**_OLLAMA_END}))
    yield Case("ollama-on-openai", ollama, "vllm", False, _OPENAI)
    yield Case("anthropic-on-openai", messages, "vllm", False, _OPENAI)
    yield Case("responses-on-ollama", responses, "ollama", False, _OLLAMA)
    yield Case("responses-on-openai", responses, "llamacpp", False, _OPENAI)


CASES = tuple(_cases())
