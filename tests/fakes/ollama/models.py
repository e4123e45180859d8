"""Stores the fake Ollama's models on disk and describes them for tags, show, ps and the OpenAI list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
Script = Callable[[Sequence[Json], Sequence[Json], Any], tuple[str, str, Sequence[Json]]]
"""Messages, tools and format in native form; the answer's thoughts, text and tool calls."""

BYTES_PER_TOKEN = 23_040
"""Size of the KV cache per token, as for a 135M model."""
FOREVER_UNIX_S = 11_017_670_522.0
"""The expiry for `keep_alive: -1`, in the year 2319."""


def rfc3339(unix_s: float) -> str:
    """UTC with nanoseconds in Go's format."""
    whole = datetime.fromtimestamp(int(unix_s), tz=UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{int(unix_s % 1 * 1e9):09d}Z"


def full_name(name: str) -> str:
    """The name with its tag, in lower case: `m` is `m:latest`."""
    last = name.rsplit("/", 1)[-1]
    return (name if ":" in last else name + ":latest").lower()


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """One model of a node. All fields but the name have plausible defaults."""

    name: str
    size_bytes: int = 98_362_432
    capabilities: tuple[str, ...] = ("completion",)
    """A selection of completion, tools, thinking, vision, insert, embedding."""
    context_train: int = 8192
    family: str = "llama"
    parameter_size: str = "134.52M"
    quantization: str = "Q4_1"
    embedding_width: int = 384
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The PARAMETER lines of its Modelfile, such as num_ctx."""
    blob: str = ""
    """Models with the same blob share a runner; empty means an own blob."""
    modified_at: float = 1_795_425_116.0
    answer: str | None = None
    """A fixed answer instead of generated text."""
    answer_tokens: int | None = None
    """The number of tokens in its answers; None means 8 to 40, depending on the conversation."""
    closes_turns: bool = False
    """Whether its template closes every turn, even a trailing assistant turn, and opens a new one, as ChatML does."""
    load_s: float = 0.25
    script: Script | None = None
    """Decides its answers instead of generated text."""

    @property
    def full_name(self) -> str:
        return full_name(self.name)

    @property
    def blob_digest(self) -> str:
        return self.blob or hashlib.sha256(f"blob {self.full_name}".encode()).hexdigest()

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"manifest {self.full_name} {self.blob_digest}".encode()).hexdigest()

    def can(self, capability: str) -> bool:
        return capability in self.capabilities


def details(model: FakeModel) -> Json:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def tag(model: FakeModel) -> Json:
    """One entry of /api/tags."""
    widths = {"context_length": model.context_train, "embedding_length": model.embedding_width}
    return {
        "name": model.full_name,
        "model": model.full_name,
        "modified_at": rfc3339(model.modified_at),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": details(model) | widths,
        "capabilities": list(model.capabilities),
    }


def running(name: str, model: FakeModel, context_tokens: int, parallel: int, expires_at: float, on_gpu: bool) -> Json:
    """One entry of /api/ps."""
    size = model.size_bytes + BYTES_PER_TOKEN * context_tokens * parallel
    return {
        "name": name,
        "model": name,
        "size": size,
        "digest": model.digest,
        "details": details(model),
        "expires_at": rfc3339(expires_at),
        "size_vram": size if on_gpu else 0,
        "context_length": context_tokens,
    }


def rendered(messages: Sequence[Json]) -> str:
    """The prompt that the template below produces for a conversation."""
    turns = (f"<|im_start|>{one.get('role')}\n{one.get('content') or ''}<|im_end|>\n" for one in messages)
    return "".join(turns) + "<|im_start|>assistant\n"


def read_back(prompt: str) -> list[Json]:
    """The conversation in a prompt by `rendered`, possibly with appended text. Any other prompt is one user turn."""
    if not prompt.startswith("<|im_start|>"):
        return [{"role": "user", "content": prompt}]
    turns = (
        turn.removesuffix("\n").removesuffix("<|im_end|>").partition("\n") for turn in prompt.split("<|im_start|>")[1:]
    )
    return [{"role": role, "content": content} for role, _, content in turns]


def shown(model: FakeModel) -> Json:
    """The answer of /api/show, without long arrays."""
    template = (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )
    lines = [f"{name:<30} {value}" for name, value in model.parameters.items()]
    lines += ['stop                           "<|im_start|>"', 'stop                           "<|im_end|>"']
    return {
        "modelfile": f'# Modelfile generated by "ollama show"\n\nFROM {model.full_name}\nTEMPLATE {template}\n',
        "parameters": "\n".join(lines),
        "template": template,
        "details": details(model),
        "model_info": model_info(model),
        "tensors": [{"name": "token_embd.weight", "type": "F16", "shape": [model.embedding_width, 2136]}],
        "capabilities": list(model.capabilities),
        "modified_at": rfc3339(model.modified_at),
    }


def model_info(model: FakeModel) -> Json:
    family = model.family
    return {
        "general.architecture": family,
        "general.file_type": 1,
        "general.parameter_count": 134_515_008,
        f"{family}.attention.head_count": 9,
        f"{family}.attention.head_count_kv": 3,
        f"{family}.attention.layer_norm_rms_epsilon": 0.00001,
        f"{family}.block_count": 30,
        f"{family}.context_length": model.context_train,
        f"{family}.embedding_length": model.embedding_width,
        f"{family}.feed_forward_length": 1536,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": None,
    }


def openai_model(model: FakeModel) -> Json:
    """One entry of /v1/models."""
    return {"id": model.full_name, "object": "model", "created": int(model.modified_at), "owned_by": "library"}
