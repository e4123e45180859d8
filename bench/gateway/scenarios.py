"""Defines the API paths, the requests and the load of every cell of the gateway benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.gateway.instruments import CHUNKS, SENTENCE, STREAM_S, TOKEN, Load

OPENAI_URL_PATH = "/v1/chat/completions"
OLLAMA_URL_PATH = "/api/chat"
ANTHROPIC_URL_PATH = "/v1/messages"
RESPONSES_URL_PATH = "/v1/responses"
MODEL = "bench"
PACED_MODEL = "bench-paced"
"""The stub sends a stream at a fixed pace if the request names this model; every gateway keeps the name."""
TENS_MODEL = "bench-paced-tens"
"""The same, with ten chunks in one write."""
OLLAMA_MODEL = "bench-ollama"
OLLAMA_MODELS = {MODEL: OLLAMA_MODEL, PACED_MODEL: "bench-ollama-paced", TENS_MODEL: "bench-ollama-paced-tens"}
STREAMS = 256
TENS_STREAMS = 32
_NOTES = "Summarize the following notes for the weekly meeting and keep every number that is in them. " * 9


@dataclass(frozen=True, slots=True)
class ApiPath:
    """The API of the client and, through the model's name, the API of the engine."""

    key: str
    title: str
    url_path: str
    model: str
    complete_end: str
    stream_end: str
    read: Callable[[bytes], str]
    """The text of an answer, streamed or not. Raises `ValueError`, `KeyError` or `TypeError` if it is malformed."""


def _openai_text(answer: bytes) -> str:
    if not answer.startswith(b"data:"):
        return str(json.loads(answer)["choices"][0]["message"]["content"])
    events = [line.removeprefix(b"data:").strip() for line in answer.splitlines() if line.startswith(b"data:")]
    choices = [choice for event in events if event != b"[DONE]" for choice in json.loads(event).get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _ollama_text(answer: bytes) -> str:
    return "".join(json.loads(line)["message"]["content"] for line in answer.splitlines())


def _anthropic_text(answer: bytes) -> str:
    events = [json.loads(line.removeprefix(b"data: ")) for line in answer.splitlines() if line.startswith(b"data: ")]
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


def _responses_text(answer: bytes) -> str:
    events = [json.loads(line.removeprefix(b"data: ")) for line in answer.splitlines() if line.startswith(b"data: ")]
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


DONE_EVENT = "data: [DONE]\n\n"
OPENAI = ApiPath(
    key="openai",
    title="OpenAI client, OpenAI engine",
    url_path=OPENAI_URL_PATH,
    model=MODEL,
    complete_end='"complete"}',
    stream_end=DONE_EVENT,
    read=_openai_text,
)
OLLAMA = ApiPath(
    key="ollama",
    title="Ollama client, Ollama engine",
    url_path=OLLAMA_URL_PATH,
    model=OLLAMA_MODEL,
    complete_end="}",
    stream_end='"eval_count":64}\n',
    read=_ollama_text,
)
TRANSLATED = ApiPath(
    key="translated",
    title="OpenAI client, Ollama engine",
    url_path=OPENAI_URL_PATH,
    model=OLLAMA_MODEL,
    complete_end="}",
    stream_end=DONE_EVENT,
    read=_openai_text,
)
PATHS = (OPENAI, OLLAMA, TRANSLATED)
OLLAMA_ON_OPENAI = ApiPath(
    key="ollama-on-openai",
    title="Ollama client, OpenAI engine",
    url_path=OLLAMA_URL_PATH,
    model=MODEL,
    complete_end="}",
    stream_end="}\n",
    read=_ollama_text,
)
ANTHROPIC_ON_OPENAI = ApiPath(
    key="anthropic-on-openai",
    title="Anthropic client, OpenAI engine",
    url_path=ANTHROPIC_URL_PATH,
    model=MODEL,
    complete_end="}",
    stream_end='"message_stop"}\n\n',
    read=_anthropic_text,
)
RESPONSES_ON_OLLAMA = ApiPath(
    key="responses-on-ollama",
    title="OpenAI client (Responses), Ollama engine",
    url_path=RESPONSES_URL_PATH,
    model=OLLAMA_MODEL,
    complete_end="}",
    stream_end="}\n\n",
    read=_responses_text,
)
CHUNK_PATHS = (*PATHS, OLLAMA_ON_OPENAI, ANTHROPIC_ON_OPENAI, RESPONSES_ON_OLLAMA)
"""Those of which the cost of a chunk is compared."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One cell. `key` is its name on the command line and in the JSON file."""

    key: str
    path: ApiPath
    load: Load
    is_stream: bool = False

    @property
    def text(self) -> str:
        """The text of every correct answer."""
        return TOKEN * CHUNKS if self.is_stream else SENTENCE * 3


def body(url_path: str, model: str, stream: bool) -> dict[str, object]:
    """A request of about 1 KB to this path."""
    system, user = {"role": "system", "content": "You are brief."}, {"role": "user", "content": _NOTES}
    common: dict[str, object] = {"model": model, "stream": stream, "temperature": 0.2}
    if url_path == ANTHROPIC_URL_PATH:
        return {**common, "system": system["content"], "messages": [user], "max_tokens": 2048}
    if url_path == RESPONSES_URL_PATH:
        return {**common, "instructions": system["content"], "input": [user], "store": False}
    return {**common, "messages": [system, user]}


def scenario_key(path: ApiPath, name: str) -> str:
    """The name of a cell on the command line."""
    return name if path is OPENAI else f"{path.key}-{name}"


def _complete(path: ApiPath, connections: int) -> Scenario:
    load = Load(connections, path.url_path, body(path.url_path, path.model, False), path.complete_end)
    return Scenario(scenario_key(path, f"c{connections}"), path, load)


def _streams(path: ApiPath, name: str, model: str, stagger_s: float, streams: int = STREAMS) -> Scenario:
    load = Load(streams, path.url_path, body(path.url_path, model, True), path.stream_end, stagger_s=stagger_s)
    return Scenario(scenario_key(path, name), path, load, is_stream=True)


def _scenarios() -> Iterator[Scenario]:
    for path in PATHS:
        yield _complete(path, 1)
        yield _complete(path, 32)
        if path is OPENAI:
            yield _complete(path, 128)
        yield _streams(path, "streams", path.model, 0.0)
        if path is OPENAI:
            yield _streams(path, "paced", PACED_MODEL, STREAM_S)


SCENARIOS = tuple(_scenarios())
"""In this order in every round: `c32` has 32 connections with complete answers, `streams` 256 streams without pauses,
`paced` 256 streams with a chunk every 10 ms."""


def _chunk_scenarios() -> Iterator[Scenario]:
    for path in CHUNK_PATHS:
        models = OLLAMA_MODELS if path.model == OLLAMA_MODEL else dict.fromkeys(OLLAMA_MODELS)
        for name, model, streams in (("ones", PACED_MODEL, STREAMS), ("tens", TENS_MODEL, TENS_STREAMS)):
            yield _streams(path, name, models[model] or model, STREAM_S, streams)


CHUNK_SCENARIOS = tuple(_chunk_scenarios())
"""Paced streams with one chunk, or ten, in every read: their CPU time is that of reading, translating and writing."""
CHUNK_KEYS = tuple(scenario.key for scenario in CHUNK_SCENARIOS)
SMOKE_KEYS = ("c32", "streams", "ollama-c32", "ollama-streams", "translated-c32", "translated-streams")
