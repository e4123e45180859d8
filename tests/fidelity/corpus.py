"""Builds the requests of the fidelity tests: every field alone, and random combinations of fields from a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from fidelity import field_values
from fidelity.field_values import Values

Json = dict[str, Any]
SAY_HI = [{"role": "user", "content": "Say hi."}]
SEED = int(os.environ.get("HERD_FIDELITY_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
"""Repeats the same requests if it is set."""
FIELDS_MAX = 6
"""Most fields in one combination, besides the required ones."""
LONG_WORDS = 2300
"""The words of a long prompt: about 6,900 tokens of the tests' models, more than Ollama's default context window."""


@dataclass(frozen=True)
class Endpoint:
    path: str
    model: str
    """"chat", "tools" or "embed": which of the engine's models serves it."""
    base: Mapping[str, Any]
    values: Values
    streams_by_default: bool = False
    can_stream: bool = True


def _limited(limit_field: str, **more: Any) -> Mapping[str, Any]:
    """A base with a limit, because the tests' models never end an answer by themselves."""
    return MappingProxyType({limit_field: 6, "temperature": 0, **more})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("/v1/chat/completions", "tools", _limited("max_tokens", messages=SAY_HI, seed=1), field_values.CHAT),
    Endpoint("/v1/completions", "chat", _limited("max_tokens", prompt="Say hi.", seed=1), field_values.COMPLETION),
    Endpoint("/v1/embeddings", "embed", {"input": "Say hi."}, field_values.EMBEDDING, can_stream=False),
    Endpoint("/v1/responses", "tools", _limited("max_output_tokens", input="Say hi."), field_values.RESPONSES),
    Endpoint("/v1/messages", "tools", _limited("max_tokens", messages=SAY_HI), field_values.MESSAGES),
    Endpoint(
        "/api/chat",
        "tools",
        {"messages": SAY_HI, "options": {"num_predict": 6, "temperature": 0, "seed": 1}},
        field_values.OLLAMA_CHAT,
        streams_by_default=True,
    ),
    Endpoint(
        "/api/generate",
        "chat",
        {"prompt": "Say hi.", "options": {"num_predict": 6, "temperature": 0, "seed": 1}},
        field_values.OLLAMA_GENERATE,
        streams_by_default=True,
    ),
    Endpoint("/api/embed", "embed", {"input": "Say hi."}, field_values.OLLAMA_EMBED, can_stream=False),
)


@dataclass(frozen=True)
class Sample:
    """One request without its model; `fields` are the names that differ from the base, for the failure message."""

    endpoint: Endpoint
    body: Json
    fields: tuple[str, ...]

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream", self.endpoint.streams_by_default)) and self.endpoint.can_stream


def single_fields(endpoint: Endpoint) -> Iterator[Sample]:
    """Every value of every field alone, streamed and not streamed in turn."""
    number = 0
    for name, values in endpoint.values.items():
        for value in values:
            number += 1
            yield _sample(endpoint, {name: value}, streams=number % 2 == 0)


def combinations(endpoint: Endpoint, rng: random.Random, count: int) -> Iterator[Sample]:
    names = sorted(endpoint.values)
    for _ in range(count):
        chosen = rng.sample(names, min(len(names), rng.randint(2, FIELDS_MAX)))
        yield _sample(endpoint, {name: rng.choice(endpoint.values[name]) for name in chosen}, rng.random() < 0.5)


def lengthened(sample: Sample) -> Sample:
    """The same request with a long prompt in front."""
    long = "word " * LONG_WORDS
    body = dict(sample.body)
    if "messages" in body:
        body["messages"] = [{"role": "user", "content": long}, {"role": "assistant", "content": "Yes."}, *SAY_HI]
    elif isinstance(body.get("prompt"), str):
        body["prompt"] = long + "Say hi."
    else:
        body["input"] = long + "Say hi."
    return Sample(sample.endpoint, body, (*sample.fields, "a long prompt"))


def without_window(sample: Sample) -> Sample:
    """The same request without `num_ctx`: the engine that answers directly then reads the whole prompt."""
    if "num_ctx" not in sample.body.get("options", {}):
        return sample
    options = {name: value for name, value in sample.body["options"].items() if name != "num_ctx"}
    return replace(sample, body={**sample.body, "options": options})


def _sample(endpoint: Endpoint, fields: Json, streams: bool) -> Sample:
    body: Json = {**endpoint.base, **fields}
    base_options = endpoint.base.get("options")
    if base_options is not None and "options" in fields:
        body["options"] = {**base_options, **fields["options"]}
    if "max_completion_tokens" in body:
        # Two different limits: engines differ in which of them they read.
        body["max_tokens"] = body["max_completion_tokens"]
    if "instructions" in body and "developer" in str(body.get("input")):
        # Two system messages are merged into one leading message, which has another number of tokens.
        del body["instructions"]
    if "functions" not in body:
        body.pop("function_call", None)
    if not body.get("tools"):
        # A choice without tools is an error in the APIs of the vendors.
        body.pop("tool_choice", None)
        body.pop("parallel_tool_calls", None)
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    if endpoint.can_stream:
        body["stream"] = streams
    if not streams:
        body.pop("stream_options", None)
    return Sample(endpoint, body, tuple(sorted(fields)))
