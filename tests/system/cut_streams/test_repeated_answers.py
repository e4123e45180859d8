"""Tests answers that no node can continue: another node gives them again, and the client gets only what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.scripted_engine import Json, Refused, ScriptedEngine
from herd.coordinator.proxy.relay_dependencies import RelaySettings
from system.test_continuation import ReceivedAnswer, ask, outcomes

THOUGHTS = "Hmm, “vier” or four? "
TEXT = 'I call two tools: 4 = "four" \\ 😀.'
CALLS = (("note", '{"sum": 4, "text": "a \\"quoted\\" {é}"}'), ("note", "{}"), ("weather", '{"city":"Bern"}'))
QUESTION = "What is 2 + 2?"
MESSAGES = [{"role": "user", "content": QUESTION}]
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}, "city": {"type": "string"}}}
NAMES = ("note", "weather")
FUNCTIONS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
RESPONSES_TOOLS = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]
ANTHROPIC_TOOLS = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
THINKING = {"type": "enabled", "budget_tokens": 400}
REQUESTS: dict[str, Json] = {
    "/v1/chat/completions": {"messages": MESSAGES, "tools": FUNCTIONS, "temperature": 0}
    | {"stream_options": {"include_usage": True}},
    "/v1/responses": {"input": QUESTION, "tools": RESPONSES_TOOLS, "temperature": 0},
    "/v1/messages": {"messages": MESSAGES, "tools": ANTHROPIC_TOOLS, "max_tokens": 500, "thinking": THINKING}
    | {"temperature": 0},
    "/api/chat": {"messages": MESSAGES, "tools": FUNCTIONS, "think": True, "options": {"seed": 3}},
}


def in_pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def deltas(size: int, spaces: bool = True) -> list[Json]:
    """The whole answer in pieces of this many characters."""
    found: list[Json] = [{"reasoning_content": piece} for piece in in_pieces(THOUGHTS, size)]
    found += [{"content": piece} for piece in in_pieces(TEXT, size)]
    for index, (name, arguments) in enumerate(CALLS):
        written = arguments if spaces else json.dumps(json.loads(arguments), separators=(",", ":"), ensure_ascii=False)
        begin = {"index": index, "id": f"c{size}{index}", "type": "function", "function": {"name": name}}
        begin["function"] |= {"arguments": ""}
        found.append({"tool_calls": [begin]})
        found += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in in_pieces(written, size)
        ]
    return found


@dataclass
class Scripted:
    """Engines with OpenAI's protocol. The first attempt dies after a number of chunks, later ones do not."""

    answers: list[list[Json]]
    dies_after: Sequence[int] = ()
    dies_after_bytes: int | None = None
    """Of the first attempt."""
    bodies: list[Json] = field(default_factory=list)

    def __call__(self, path: str, body: Json) -> Iterator[bytes] | Refused:
        if path != "/v1/chat/completions":
            return Refused("no such path", 404)
        after_bytes, self.dies_after_bytes = self.dies_after_bytes, None
        return self.stream(body) if after_bytes is None else iter([b"".join(self.stream(body))[:after_bytes]])

    def stream(self, body: Json) -> Iterator[bytes]:
        number = len(self.bodies)
        self.bodies.append(body)
        chunks = self.answers[min(number, len(self.answers) - 1)]
        dies_after = self.dies_after[number] if number < len(self.dies_after) else None
        for delta in chunks[:dies_after]:
            yield event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if dies_after is None:
            usage = {"prompt_tokens": 9, "completion_tokens": 77, "total_tokens": 86}
            reason = "tool_calls" if any("tool_calls" in delta for delta in chunks) else "stop"
            yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage})
            yield b"data: [DONE]\n\n"


def event(chunk: Json) -> bytes:
    return b"data: " + json.dumps({"id": "c1", "created": 1, "model": "m", **chunk}).encode() + b"\n\n"


@dataclass
class Answer:
    """What a client has put together."""

    thinking: str = ""
    text: str = ""
    calls: dict[object, list[str]] = field(default_factory=dict)
    """The id, the name and the arguments of each call."""
    end: object = None
    output_tokens: object = None

    @property
    def content(self) -> tuple[object, ...]:
        calls = [(name, json.loads(arguments or "{}")) for _, name, arguments in self.calls.values()]
        return self.thinking, self.text, calls, self.end, self.output_tokens


def put_together(path: str, received: ReceivedAnswer) -> Answer:
    answer = Answer()
    for piece in received.pieces:
        _READERS[path](answer, piece)
    return answer


def _add_chat(answer: Answer, piece: Json) -> None:
    for choice in piece["choices"]:
        delta = choice["delta"]
        answer.thinking += delta.get("reasoning") or delta.get("reasoning_content") or ""
        answer.text += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            own = answer.calls.setdefault(call["index"], ["", "", ""])
            own[0] += call.get("id") or ""
            own[1] += call["function"].get("name") or ""
            own[2] += call["function"].get("arguments") or ""
        answer.end = choice["finish_reason"] or answer.end
    answer.output_tokens = (piece.get("usage") or {}).get("completion_tokens", answer.output_tokens)


def _add_response(answer: Answer, piece: Json) -> None:
    kind, delta = piece["type"], piece.get("delta")
    answer.thinking += delta if kind == "response.reasoning_summary_text.delta" else ""
    answer.text += delta if kind == "response.output_text.delta" else ""
    if kind == "response.output_item.added" and piece["item"]["type"] == "function_call":
        answer.calls[piece["item"]["id"]] = [piece["item"]["call_id"], piece["item"]["name"], ""]
    if kind == "response.function_call_arguments.delta":
        answer.calls[piece["item_id"]][2] += delta
    if kind == "response.completed":
        items = piece["response"]["output"]
        calls = [
            [item["call_id"], item["name"], item["arguments"]] for item in items if item["type"] == "function_call"
        ]
        assert calls == list(answer.calls.values()), "the last event repeats the calls"
        assert [item["summary"][0]["text"] for item in items if item["type"] == "reasoning"] == [answer.thinking]
        assert [item["content"][0]["text"] for item in items if item["type"] == "message"] == [answer.text]
        answer.end, answer.output_tokens = "completed", piece["response"]["usage"]["output_tokens"]


def _add_message(answer: Answer, piece: Json) -> None:
    delta = piece.get("delta") or {}
    answer.thinking += delta.get("thinking", "")
    answer.text += delta.get("text", "")
    block = piece.get("content_block") or {}
    if block.get("type") == "tool_use":
        answer.calls[piece["index"]] = [block["id"], block["name"], ""]
    if "partial_json" in delta:
        answer.calls[piece["index"]][2] += delta["partial_json"]
    if piece["type"] == "message_delta":
        answer.end, answer.output_tokens = delta["stop_reason"], piece["usage"]["output_tokens"]


def _add_line(answer: Answer, piece: Json) -> None:
    message = piece["message"]
    answer.thinking += message.get("thinking") or ""
    answer.text += message.get("content") or ""
    for call in message.get("tool_calls", ()):
        function = call["function"]
        answer.calls[len(answer.calls)] = ["", function["name"], json.dumps(function["arguments"])]
    if piece["done"]:
        answer.end, answer.output_tokens = piece["done_reason"], piece["eval_count"]


_READERS: dict[str, Any] = {
    "/v1/chat/completions": _add_chat,
    "/v1/responses": _add_response,
    "/v1/messages": _add_message,
    "/api/chat": _add_line,
}


@pytest.fixture(scope="module", params=["auto", "off"], ids=["calls repaired", "calls as they are"])
def script_and_fleet(request: pytest.FixtureRequest) -> Iterator[tuple[Scripted, Fleet]]:
    """Three nodes with one script. Held calls are sent whole, others in fragments."""
    script = Scripted([])
    settings = replace(settings_for_tests(), relay=RelaySettings(tool_repair=request.param))
    with (
        ScriptedEngine(script) as one,
        ScriptedEngine(script) as two,
        ScriptedEngine(script) as three,
        running_fleet({}, settings=settings) as fleet,
    ):
        for name, engine in (("one", one), ("two", two), ("three", three)):
            engine.join(fleet, name, [a_model_info("m", capabilities=("completion", "tools", "thinking"))], "vllm")
        yield script, fleet


def run(script: Scripted, fleet: Fleet, path: str, more: Json | None = None) -> ReceivedAnswer:
    script.bodies.clear()
    return ask(fleet, path, {"model": "m", "stream": True, **REQUESTS[path], **(more or {})})


def assert_in_order(path: str, received: ReceivedAnswer) -> None:
    """Sequence numbers, block indexes and ids are those of one answer."""
    pieces = received.pieces
    if path == "/v1/responses":
        assert [piece["sequence_number"] for piece in pieces] == list(range(len(pieces)))
        added = [piece["output_index"] for piece in pieces if piece["type"] == "response.output_item.added"]
        done = [piece["item"]["id"] for piece in pieces if piece["type"] == "response.output_item.done"]
        assert added == list(range(len(added))) and len(done) == len(set(done)) == len(added)
    if path == "/v1/messages":
        events = [(piece["type"], piece["index"]) for piece in pieces if piece["type"].startswith("content_block_s")]
        expected = [(f"content_block_{kind}", index) for index in range(5) for kind in ("start", "stop")]
        assert events == expected


@pytest.mark.parametrize("path", REQUESTS)
def test_answer_with_thinking_and_calls_that_is_cut_anywhere_is_whole(
    script_and_fleet: tuple[Scripted, Fleet], path: str
) -> None:
    script, fleet = script_and_fleet
    first = deltas(7)
    script.answers, script.dies_after = [first], []
    expected = put_together(path, run(script, fleet, path)).content
    assert expected[:2] == (THOUGHTS, TEXT) and expected[2] == [(name, json.loads(text)) for name, text in CALLS]
    script.answers = [first, deltas(5, spaces=False)]
    thought = len(in_pieces(THOUGHTS, 7))
    for cut in range(thought + 1, len(first) + 1):
        script.dies_after = [cut]
        received = run(script, fleet, path)
        assert received.is_whole and put_together(path, received).content == expected, f"cut after {cut} chunks"
        assert_in_order(path, received)
        assert script.bodies[0] == script.bodies[1], "the other node gets the client's own request"
    assert outcomes(fleet)[-2:] == ["retried", "completed"]


@pytest.mark.parametrize("path", REQUESTS)
def test_answer_with_thinking_and_calls_that_is_cut_at_any_byte_is_whole(
    script_and_fleet: tuple[Scripted, Fleet], path: str
) -> None:
    script, fleet = script_and_fleet
    first = deltas(9)
    script.answers, script.dies_after = [first], []
    expected = put_together(path, run(script, fleet, path)).content
    whole = b"".join(script.stream({}))
    script.answers = [first, deltas(6, spaces=False)]
    for cut in range(whole.index(b'"content"') + 140, len(whole), 71):
        script.dies_after_bytes = cut
        received = run(script, fleet, path)
        assert received.is_whole and put_together(path, received).content == expected, f"cut after {cut} bytes"
        assert_in_order(path, received)


@pytest.mark.parametrize("path", REQUESTS)
def test_second_node_that_dies_anywhere_is_followed_by_a_third(
    script_and_fleet: tuple[Scripted, Fleet], path: str
) -> None:
    script, fleet = script_and_fleet
    first, second = deltas(7), deltas(4)
    script.answers, script.dies_after = [first, second, deltas(11)], []
    expected = put_together(path, run(script, fleet, path)).content
    for cut in range(1, len(second), 3):
        script.dies_after = [len(first) - 6, cut]
        received = run(script, fleet, path)
        assert received.is_whole and put_together(path, received).content == expected, f"cut after {cut} chunks"
        assert len(script.bodies) == 3
        assert_in_order(path, received)


OTHER_ANSWERS: dict[str, list[Json]] = {
    "other thinking": [{"reasoning_content": "Hm"}, *deltas(7)],
    "longer thinking": [*[{"reasoning_content": piece} for piece in in_pieces(THOUGHTS + "!", 7)], *deltas(7)[3:]],
    "other text": [{"reasoning_content": THOUGHTS}, {"content": TEXT[:-1] + "!"}],
    "no call": [{"reasoning_content": THOUGHTS}, {"content": TEXT}],
    "text instead of the call": [{"reasoning_content": THOUGHTS}, {"content": TEXT}, {"content": "And so on."}],
    "other name": [json.loads(json.dumps(delta).replace('"note"', '"weather"')) for delta in deltas(7)],
    "other arguments": [json.loads(json.dumps(delta).replace("quoted", "qUoted")) for delta in deltas(40)],
    "no thinking": [delta for delta in deltas(7) if "reasoning_content" not in delta],
}


AT_THE_END = ("no call", "text instead of the call", "other name", "other arguments")
"""Ollama's protocol sends calls with the end of an answer, so these do not differ from what was sent before."""


@pytest.mark.parametrize(
    ("path", "other"),
    [(path, other) for path in REQUESTS for other in OTHER_ANSWERS if path != "/api/chat" or other not in AT_THE_END],
)
def test_other_answer_is_never_joined_to_the_first(
    script_and_fleet: tuple[Scripted, Fleet], path: str, other: str
) -> None:
    script, fleet = script_and_fleet
    first = deltas(7)
    begun = next(number for number, delta in enumerate(first) if "weather" in json.dumps(delta))
    script.answers, script.dies_after = [first, OTHER_ANSWERS[other]], [begun]
    if path == "/api/chat":
        script.dies_after = [begun, 10_000]
        script.answers[0] = [*[{"reasoning_content": THOUGHTS}], {"content": TEXT}]
    received = run(script, fleet, path)
    assert not received.is_whole or "error" in json.dumps(received.pieces[-1])
    assert outcomes(fleet)[-1] == "failed_midstream"
    assert len(script.bodies) == 2, "after an answer that differs there is no third one"
    answer = put_together(path, ReceivedAnswer([line for line in received.lines if b'"error"' not in line], True))
    assert THOUGHTS.startswith(answer.thinking) and TEXT.startswith(answer.text)


def test_random_answer_is_repeated_only_if_little_of_it_was_sent(script_and_fleet: tuple[Scripted, Fleet]) -> None:
    script, fleet = script_and_fleet
    long = [{"reasoning_content": THOUGHTS}, *[{"content": f"word {number} "} for number in range(40)]]
    script.answers, random = [long], {"temperature": 1}
    for cut, outcome in ((3, "completed"), (40, "failed_midstream")):
        script.dies_after = [cut]
        run(script, fleet, "/v1/chat/completions", random)
        assert outcomes(fleet)[-1] == outcome
    for certain in ({"temperature": 1, "seed": 0}, {"temperature": 0}):
        script.dies_after = [40]
        run(script, fleet, "/v1/chat/completions", certain)
        assert outcomes(fleet)[-1] == "completed"


def test_answer_that_a_format_binds_is_given_again(script_and_fleet: tuple[Scripted, Fleet]) -> None:
    script, fleet = script_and_fleet
    document = '{"sum": 4, "text": "four"}'
    script.answers = [[{"content": piece} for piece in in_pieces(document, size)] for size in (3, 5)]
    more = {"response_format": {"type": "json_object"}, "tools": []}
    for cut in range(1, 9):
        script.dies_after = [cut]
        received = run(script, fleet, "/v1/chat/completions", more)
        assert received.is_whole and put_together("/v1/chat/completions", received).text == document
