"""Generates the fake Ollama's answers chunk by chunk, independent of the API.

The native, OpenAI and Anthropic APIs build an `InferenceRequest` and convert `Chunk` and `Finish` to their format.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fakes.clock import Clock
from fakes.generated_text import (
    TOKENS_PER_MESSAGE,
    count_tokens,
    invented_words,
    json_tokens,
    limited,
    rest_of,
    rng_for,
    split_tokens,
    whole_answer,
)
from fakes.ollama.models import FakeModel, read_back

NOMINAL_PREFILL_TOKENS_PER_S = 5000
NOMINAL_TOKENS_PER_S = 200
"""The values from which the reported durations are computed, so that they are the same in every run."""
HOT_LOAD_NS = 1_000_000
IMAGE_TOKENS = 256

FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
INTEGERS = ("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu")
MORE_INTEGERS = ("num_thread", "draft_num_predict")
UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ApiError(Exception):
    """An error with its status and the server's original message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class LateError(ApiError):
    """An error by the runner. For a streaming request the answer was already set up as a stream."""


class RunnerLost(Exception):
    """The runner died during a generation."""


class EndedEarly(Exception):
    """The runner stopped without a finish reason."""


@dataclass(kw_only=True)
class InferenceRequest:
    """A request for inference, independent of the API."""

    model: FakeModel
    messages: list[dict[str, Any]]
    """Messages in native form; for /api/generate one user message."""
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    format: Any = None
    think: bool = False
    truncate: bool = True
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    raw: bool = False


@dataclass(frozen=True)
class Chunk:
    """About one token, with exactly one of text, thinking or tool calls."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Finish:
    """The end of a complete answer."""

    reason: str
    prompt_tokens: int
    tokens: int
    load_ns: int
    tokens_per_s: float = 0.0
    """The generation speed; 0 means unlimited, which is reported as the nominal speed."""

    @property
    def prompt_ns(self) -> int:
        return self.prompt_tokens * 1_000_000_000 // NOMINAL_PREFILL_TOKENS_PER_S

    @property
    def eval_ns(self) -> int:
        return int(self.tokens * 1_000_000_000 // (self.tokens_per_s or NOMINAL_TOKENS_PER_S))

    @property
    def total_ns(self) -> int:
        return self.load_ns + self.prompt_ns + self.eval_ns


def duration_s(value: Any) -> float | None:
    """`keep_alive` in seconds: number, Go duration, negative = forever, None = not given. Raises `ApiError`."""
    if value is None:
        return None
    if isinstance(value, bool):
        raise ApiError(400, "Unsupported type: 'bool'")
    if isinstance(value, str):
        value = go_duration_s(value)
    elif not isinstance(value, int | float):
        raise ApiError(400, f"Unsupported type: '{type(value).__name__}'")
    return float("inf") if value < 0 else float(value)


def go_duration_s(text: str) -> float:
    """A Go duration such as `1h30m` in seconds. Raises `ApiError` with Go's message."""
    if text in ("0", "-0"):
        return 0.0
    found = re.fullmatch(r"([-+]?)((?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+)", text)
    if found is None:
        missing = re.fullmatch(r"[-+]?\d+(\.\d+)?", text)
        raise ApiError(400, f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", found[2])
    total = sum(float(number) * UNITS_S[unit] for number, unit in parts)
    return -total if found[1] == "-" else total


def check_options(options: dict[str, Any]) -> None:
    """Raises `ApiError` 500 for a known option of the wrong type. Unknown options are accepted."""
    for name, value in options.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in FLOATS and not is_number:
            raise ApiError(500, f'option "{name}" must be of type float32')
        if name in (*INTEGERS, *MORE_INTEGERS) and not is_number:
            raise ApiError(500, f'option "{name}" must be of type integer')
        if name == "use_mmap" and not isinstance(value, bool | None):
            raise ApiError(500, f'option "{name}" must be of type boolean')
        if name == "stop" and not isinstance(value, list):
            raise ApiError(500, f'option "{name}" must be of type array')


def check_format(wanted: Any) -> None:
    """Raises `LateError` 500 for a format that is neither "json" nor a schema."""
    if wanted in (None, "", "json") or isinstance(wanted, dict):
        return
    raise LateError(
        500, f'invalid format: {json.dumps(json.dumps(wanted))}; expected "json" or a valid JSON Schema object'
    )


def prompt_tokens(messages: Sequence[dict[str, Any]], raw: bool) -> int:
    """The number of prompt tokens, including the template unless the prompt is raw."""
    around = 0 if raw else TOKENS_PER_MESSAGE
    words = sum(count_tokens(str(message.get("content") or "")) + around for message in messages)
    pictures = sum(len(message.get("images") or ()) for message in messages)
    return words + pictures * IMAGE_TOKENS + around


def fitted_prompt(inference: InferenceRequest, context_tokens: int) -> int:
    """The number of prompt tokens after truncation. Raises `LateError` 400 if truncation is not allowed."""
    tokens = prompt_tokens(inference.messages, inference.raw)
    if inference.model.script is not None:
        tokens += count_tokens(json.dumps(inference.tools))
    if tokens <= context_tokens:
        return tokens
    if inference.truncate and inference.shift is not False:
        return context_tokens // 2 + 3
    inner = {
        "code": 400,
        "message": f"request ({tokens} tokens) exceeds the available context size ({context_tokens} tokens), "
        "try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": tokens,
        "n_ctx": context_tokens,
    }
    raise LateError(400, json.dumps({"error": inner}, separators=(",", ":")))


def check_images(inference: InferenceRequest) -> None:
    """Raises `LateError` 400 with the engine's JSON if a model without vision gets an image."""
    if inference.model.can("vision") or not any(message.get("images") for message in inference.messages):
        return
    text = "Multimodal data provided, but model does not support multimodal requests."
    inner = {"code": 400, "message": text, "type": "invalid_request_error"}
    raise LateError(400, json.dumps({"error": inner}, separators=(",", ":")))


def conversation_of(inference: InferenceRequest) -> list[dict[str, Any]]:
    return read_back(str(inference.messages[-1]["content"])) if inference.raw else inference.messages


def is_begun(inference: InferenceRequest) -> bool:
    """Whether the prompt ends within the assistant's turn, which is then continued."""
    messages = conversation_of(inference)
    return (
        bool(messages)
        and messages[-1].get("role") == "assistant"
        and (inference.raw or not inference.model.closes_turns)
    )


def pieces_of(inference: InferenceRequest) -> tuple[list[Chunk], str]:
    """The complete generation, computed in advance: its chunks and its finish reason."""
    seed = inference.options.get("seed", 0)
    messages = conversation_of(inference)
    last = messages[-1] if messages else {}
    already = str(last.get("content") or "") if is_begun(inference) else ""
    before = messages[:-1] if is_begun(inference) else messages
    key = conversation_key(before)
    rng = rng_for("more", inference.model.full_name, key, seed)
    thoughts = [Chunk(thinking=word) for word in invented_words(rng, 6)] if inference.think else []
    if inference.tools and last.get("role") == "user":
        call = tool_call(inference.tools[0], rng)
        return [*thoughts, Chunk(tool_calls=(call,))], "stop"
    limit = inference.options.get("num_predict")
    if inference.format:
        schema = inference.format if isinstance(inference.format, dict) else None
        generated = limited(json_tokens(schema, rng), limit, ())
    else:
        whole = inference.model.answer
        if whole is None:
            whole = whole_answer(inference.model.full_name, key, seed, inference.model.answer_tokens)
        rest = rest_of(whole, already) if already else split_tokens(whole)
        generated = limited(rest, limit, inference.options.get("stop") or ())
    return [
        *thoughts,
        *(Chunk(text=word, logprobs=logprobs_of(inference, word)) for word in generated.tokens),
    ], generated.reason


def conversation_key(messages: Sequence[dict[str, Any]]) -> str:
    """The same for every API: without empty fields, and without the ids of calls, which not every API carries."""
    kept = [{name: value for name, value in one.items() if value and name != "tool_call_id"} for one in messages]
    return json.dumps(kept, sort_keys=True)


def scripted_pieces(inference: InferenceRequest, is_cut: bool) -> list[Chunk]:
    """The script's answer. A cut prompt has lost its oldest messages, as in the real server."""
    assert inference.model.script is not None
    messages = [one for one in inference.messages if one["role"] == "system"][:1] + inference.messages[-1:]
    thoughts, text, calls = inference.model.script(
        messages if is_cut else inference.messages, inference.tools, inference.format
    )
    thinking = [Chunk(thinking=word) for word in split_tokens(thoughts)] if inference.think else []
    return [
        *thinking,
        *(Chunk(text=word) for word in split_tokens(text)),
        *(Chunk(tool_calls=(call,)) for call in calls),
    ]


def tool_call(tool: dict[str, Any], rng: Any) -> dict[str, Any]:
    """A call of the tool with arguments that match its parameters."""
    function = tool.get("function", {})
    schema = function.get("parameters") or {}
    arguments = {
        name: ("word" if (part or {}).get("type", "string") == "string" else 7)
        for name, part in (schema.get("properties") or {}).items()
    }
    call_id = "call_" + "".join("abcdefghijklmnopqrstuvwxyz0123456789"[int(rng.random() * 36)] for _ in range(8))
    return {"id": call_id, "function": {"index": 0, "name": function.get("name", ""), "arguments": arguments}}


def logprobs_of(inference: InferenceRequest, token: str) -> tuple[dict[str, Any], ...]:
    if not inference.logprobs:
        return ()
    entry: dict[str, Any] = {"token": token, "logprob": -0.5, "bytes": list(token.encode())}
    if inference.top_logprobs:
        others = [{"token": token, "logprob": -0.5, "bytes": list(token.encode())}] * inference.top_logprobs
        entry["top_logprobs"] = others
    return (entry,)


async def generate(
    inference: InferenceRequest,
    context_tokens: int,
    load_ns: int,
    clock: Clock,
    tokens_per_s: float,
    before_chunk: Callable[[int], Awaitable[None]],
) -> AsyncGenerator[Chunk | Finish, None]:
    """Yields the chunks and the end. `before_chunk(n)` may wait or raise before chunk n (the end counts as a chunk)."""
    check_format(inference.format)
    check_images(inference)
    prompt = fitted_prompt(inference, context_tokens)
    if inference.model.script is not None:
        chunks, reason = scripted_pieces(inference, prompt == context_tokens // 2 + 3), "stop"
    else:
        chunks, reason = pieces_of(inference)
    for number, chunk in enumerate(chunks):
        await before_chunk(number)
        await clock.sleep(1 / tokens_per_s if tokens_per_s else 0)
        yield chunk
    await before_chunk(len(chunks))
    yield Finish(reason, prompt, len(chunks) if is_begun(inference) else max(1, len(chunks)), load_ns, tokens_per_s)
