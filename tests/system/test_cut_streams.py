"""Differential tests of cut streams: with deterministic engines, a joined answer equals the uncut one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.llamacpp.engines import HAS_XLLAMACPP, EngineSettings, llama_engines
from fakes.scripted_engine import Json, ScriptedEngine
from system.test_continuation import QUESTION, ReceivedAnswer, ask, outcomes

WORDS = ("Once", " upon", " 🙂", " 東京", " a", " herd", ".")
TOKENS_PER_WORD = (1, 1, 3, 2, 1, 1, 1)
"""As a tokenizer with bytes as its smallest tokens: the engine sends a character when its last token has arrived."""


class Tokenizing:
    """A llama.cpp server that writes WORDS after what the client or another node has begun, and dies once if asked."""

    def __init__(self) -> None:
        self.dies_after: int | None = None
        self.bodies: list[tuple[str, Json]] = []

    def __call__(self, path: str, body: Json) -> Any:
        self.bodies.append((path, body))
        if path == "/tokenize":
            return {"tokens": list(range(self.tokens(body["content"])))}
        return self.stream(path, body)

    @staticmethod
    def tokens(text: str) -> int:
        return sum(size for word, size in zip(WORDS, TOKENS_PER_WORD, strict=True) if word in text)

    def stream(self, path: str, body: Json) -> Iterator[bytes]:
        if path == "/v1/messages":
            yield from self.message(body)
            return
        is_chat = path == "/v1/chat/completions"
        last = body["messages"][-1] if is_chat else {"role": "assistant", "content": body["prompt"]}
        begun = last["content"].removeprefix("2 + 2 =") if last["role"] == "assistant" else ""
        limit, used, words, text = body.get("max_tokens", 99), 0, 0, ""
        for word, size in zip(WORDS, TOKENS_PER_WORD, strict=True):
            text += word
            if len(text) <= len(begun):
                continue
            if used + size > limit:
                break
            used, words = used + size, words + 1
            if self.dies_after is not None and words > self.dies_after:
                self.dies_after = None
                return
            content = {"delta": {"content": word}} if is_chat else {"text": word}
            yield self.event({"choices": [{"index": 0, **content, "finish_reason": None}]})
        if self.dies_after is not None and words >= self.dies_after:
            self.dies_after = None
            return
        reason = "stop" if text == "".join(WORDS) and used <= limit and words else "length"
        empty: Json = {"delta": {}} if is_chat else {"text": ""}
        yield self.event({"choices": [{"index": 0, **empty, "finish_reason": reason}]})
        usage = {"prompt_tokens": 10 + self.tokens(begun), "completion_tokens": used}
        yield self.event({"choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def message(self, body: Json) -> Iterator[bytes]:
        """Anthropic's stream, only from the beginning and only to its death."""
        usage = {"input_tokens": 10, "output_tokens": 0}
        start = {"type": "message_start", "message": {"id": "msg_1", "usage": usage, "content": []}}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        dies_after, self.dies_after = self.dies_after or 0, None
        texts = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
            for word in WORDS[:dies_after]
        ]
        for event in (start, block, *texts):
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()

    @staticmethod
    def event(chunk: Json) -> bytes:
        return b"data: " + json.dumps({"id": "c1", "created": 1, **chunk}, ensure_ascii=False).encode() + b"\n\n"


@contextmanager
def two_engines() -> Iterator[tuple[Fleet, Tokenizing, Tokenizing]]:
    first, second = Tokenizing(), Tokenizing()
    with ScriptedEngine(first) as one, ScriptedEngine(second) as two, running_fleet({}) as fleet:
        one.join(fleet, "one", [a_model_info("m")], "llamacpp")
        two.join(fleet, "two", [a_model_info("m")], "llamacpp")
        yield fleet, first, second


def cut_once(fleet: Fleet, engines: tuple[Tokenizing, Tokenizing], path: str, body: Json, words: int) -> ReceivedAnswer:
    """The answer whose first node dies after some words, whichever it is."""
    for engine in engines:
        engine.bodies.clear()
        engine.dies_after = words
    kept = list(engines)

    def first_is_dead() -> None:
        for engine in kept:
            if engine.dies_after is None:
                for other in kept:
                    other.dies_after = None

    for engine in engines:
        stream = engine.stream

        def dying(path: str, body: Json, stream: Any = stream) -> Iterator[bytes]:
            yield from stream(path, body)
            first_is_dead()

        engine.stream = dying  # type: ignore[method-assign]
    try:
        return ask(fleet, path, body)
    finally:
        for engine in engines:
            del engine.stream


REQUESTS: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", {"messages": QUESTION, "stream_options": {"include_usage": True}}),
    "completions": ("/v1/completions", {"prompt": "2 + 2 =", "stream_options": {"include_usage": True}}),
    "responses": ("/v1/responses", {"input": "Tell me."}),
    "anthropic": ("/v1/messages", {"messages": QUESTION, "max_tokens": 99}),
    "ollama": ("/api/chat", {"messages": QUESTION}),
}


def text_of(received: ReceivedAnswer) -> str:
    found = []
    for piece in received.pieces:
        for choice in piece.get("choices") or []:
            found.append(choice.get("delta", {}).get("content") or choice.get("text") or "")
        if piece.get("type") == "content_block_delta":
            found.append(piece["delta"].get("text", ""))
        if piece.get("type") == "response.output_text.delta":
            found.append(piece["delta"])
        found.append((piece.get("message") or {}).get("content") or "" if "choices" not in piece else "")
    return "".join(part for part in found if isinstance(part, str))


def usage_of(received: ReceivedAnswer) -> tuple[int, int]:
    for piece in reversed(received.pieces):
        usage = piece.get("usage") or (piece.get("response") or {}).get("usage")
        if usage:
            prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
            return prompt, usage.get("completion_tokens", usage.get("output_tokens"))
        if piece.get("done"):
            return piece["prompt_eval_count"], piece["eval_count"]
    raise AssertionError("no usage")


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("words", range(1, len(WORDS)))
def test_joined_answer_and_its_usage_equal_the_uncut_ones(name: str, words: int) -> None:
    path, body = REQUESTS[name]
    with two_engines() as (fleet, *engines):
        received = cut_once(fleet, (engines[0], engines[1]), path, {"model": "m", "stream": True, **body}, words)
        assert received.is_whole and text_of(received) == "".join(WORDS)
        assert usage_of(received) == (10, sum(TOKENS_PER_WORD)), "counted by the engine, not by pieces"
        assert outcomes(fleet) == ["retried", "completed"]


@pytest.mark.parametrize("words", [1, 2, 3, 5])
def test_limit_of_the_rest_counts_the_tokens_of_the_beginning(words: int) -> None:
    body = {"model": "m", "stream": True, "messages": QUESTION, "max_tokens": 8}
    with two_engines() as (fleet, *engines):
        received = cut_once(fleet, (engines[0], engines[1]), "/v1/chat/completions", body, words)
        assert text_of(received) == "".join(WORDS[:5]), "8 tokens: 1 + 1 + 3 + 2 + 1"
        assert received.pieces[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_that_lacks_only_its_end_gets_no_token_over_its_limit(name: str) -> None:
    path, body = REQUESTS[name]
    limited = {"options": {"num_predict": 8}} if path.startswith("/api/") else {"max_tokens": 8}
    limited = {"max_output_tokens": 8} if path == "/v1/responses" else limited
    with two_engines() as (fleet, *engines):
        request = {"model": "m", "stream": True, **body, **limited}
        received = cut_once(fleet, (engines[0], engines[1]), path, request, 5)
        assert received.is_whole and text_of(received) == "".join(WORDS[:5])
        prompt, completion = usage_of(received)
        assert completion == 8 and prompt, "a prompt is estimated if no engine counts it"


@pytest.mark.parametrize(
    "more",
    [
        {"logit_bias": {"7": 5}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"top_n_sigma": 1.5},
        {"an_unknown_field": {"a": [1]}},
        {"samplers": ["top_k"]},
        {"logprobs": True, "top_logprobs": 2},
    ],
    ids=lambda more: next(iter(more)),
)
def test_every_other_field_of_the_client_is_sent_to_the_next_node(more: Json) -> None:
    body = {"model": "m", "stream": True, "messages": QUESTION, "max_tokens": 90, **more}
    with two_engines() as (fleet, *engines):
        received = cut_once(fleet, (engines[0], engines[1]), "/v1/chat/completions", body, 4)
        assert received.is_whole and text_of(received) == "".join(WORDS)
        sent = [b for engine in engines for path, b in engine.bodies if path == "/v1/chat/completions"]
        rest = next(b for b in sent if b["messages"][-1]["role"] == "assistant")
        assert rest["messages"] == [*QUESTION, {"role": "assistant", "content": "".join(WORDS[:4])}]
        assert rest["max_tokens"] == 90 - sum(TOKENS_PER_WORD[:4])
        assert {name: rest[name] for name in body if name not in ("messages", "max_tokens")} == {
            name: value for name, value in body.items() if name not in ("messages", "max_tokens")
        }


def test_response_keeps_its_ids_and_numbers_across_the_nodes() -> None:
    body = {"model": "m", "stream": True, "input": "Tell me."}
    with two_engines() as (fleet, *engines):
        received = cut_once(fleet, (engines[0], engines[1]), "/v1/responses", body, 3)
    events = received.pieces
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    final = events[-1]["response"]
    assert final["id"] == events[0]["response"]["id"] and final["status"] == "completed"
    assert final["output"][0]["content"][0]["text"] == "".join(WORDS)
    assert "fleet_note" in final and [e["type"] for e in events].count("response.output_item.added") == 1


@pytest.mark.skipif(not HAS_XLLAMACPP, reason="needs xllamacpp")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_grammar_is_not_restarted_in_the_middle_of_an_answer(path: str) -> None:
    """Measured with a real llama.cpp: it restarts the grammar after the text that it continues."""
    with llama_engines(1, EngineSettings()) as (engine,), running_fleet({"one": engine}) as fleet:
        name = fleet.get("/api/tags")["models"][0]["name"]
        prompt: Json = {"prompt": "x"} if path == "/v1/completions" else {"messages": QUESTION}
        body = {"model": name, "stream": True, "temperature": 0, "grammar": 'root ::= "abc" "def"', **prompt}
        assert text_of(ask(fleet, path, body)) == "abcdef"
