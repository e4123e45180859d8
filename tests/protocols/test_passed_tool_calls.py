"""Tests that calls in passed-on answers of every API are repaired, and right ones keep their bytes and their events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from herd.protocols import passed_tool_calls
from herd.protocols.passed_tool_calls import PassedToolCalls

SCHEMA = {"type": "object", "properties": {"lines": {"type": "integer"}, "path": {"type": "string"}}}
REQUESTS = {
    "chat": {"tools": [{"type": "function", "function": {"name": "read", "parameters": SCHEMA}}]},
    "responses": {"tools": [{"type": "function", "name": "read", "parameters": SCHEMA}]},
    "anthropic": {"tools": [{"name": "read", "input_schema": SCHEMA}]},
}
BAD, GOOD = ("{'lines': ", "'3',}"), ('{ "lines"', ": 3 }")


def repairer(api: str = "chat") -> PassedToolCalls:
    return PassedToolCalls(json.dumps(REQUESTS[api]).encode())


def event(value: object, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(calls: list[dict[str, Any]] | None = None, text: str = "", finish: str | None = None) -> bytes:
    delta: dict[str, Any] = {"content": text} if text else {}
    if calls is not None:
        delta["tool_calls"] = calls
    return event({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def fragment(arguments: Any, index: int = 0, **first: str) -> dict[str, Any]:
    name = {"name": first.pop("name")} if "name" in first else {}
    return {"index": index, **first, "function": {**name, "arguments": arguments}}


def chat_stream(arguments: tuple[str, str], finish: str = "tool_calls", calls: int = 1) -> list[bytes]:
    out = [chunk(text="I read")]
    for index in range(calls):
        out.append(chunk([fragment("", index, id=f"c{index}", name="read")]))
        out += [chunk([fragment(part, index)]) for part in arguments]
    return [*out, chunk(finish=finish), b"data: [DONE]\n\n"]


def anthropic_stream(arguments: tuple[str, str], stop: str = "tool_use") -> list[bytes]:
    def delta(part: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": part}}

    block = {"type": "tool_use", "id": "t", "name": "read", "input": {}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": block},
        *map(delta, arguments),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": stop}},
        {"type": "message_stop"},
    ]
    return [event(value, value["type"]) for value in events]


def responses_stream(arguments: tuple[str, str], status: str = "completed") -> list[bytes]:
    whole = "".join(arguments)
    item = {"type": "function_call", "id": "i", "call_id": "c", "name": "read", "arguments": whole, "status": status}
    at = {"item_id": "i", "output_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
        *({"type": "response.function_call_arguments.delta", **at, "delta": part} for part in arguments),
        {"type": "response.function_call_arguments.done", **at, "arguments": whole},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"output": [item], "status": status}},
    ]
    return [event(value, value["type"]) for value in events]


STREAMS = {"chat": chat_stream, "anthropic": anthropic_stream, "responses": responses_stream}


def values(stream: bytes) -> list[Any]:
    lines = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def arguments_of(api: str, stream: bytes) -> str:
    """What a client puts together from the fragments."""
    parts = []
    for value in values(stream):
        for choice in value.get("choices", []):
            parts += [call["function"]["arguments"] for call in choice["delta"].get("tool_calls", [])]
        delta = value.get("delta")
        if isinstance(delta, dict):
            parts.append(delta.get("partial_json", ""))
        elif value.get("type") == "response.function_call_arguments.delta":
            parts.append(delta)
    return "".join(parts)


def passed(api: str, pieces: list[bytes]) -> tuple[bytes, PassedToolCalls]:
    calls = repairer(api)
    return b"".join([calls.stream(piece) for piece in pieces]) + calls.end(), calls


@pytest.mark.parametrize("api", STREAMS)
def test_a_right_call_keeps_its_bytes(api: str) -> None:
    pieces = STREAMS[api](GOOD)
    for sent in (pieces, [b"".join(pieces)], b"".join(pieces).splitlines(keepends=True)):
        out, calls = passed(api, sent)
        assert out == b"".join(pieces) and calls.count == 0


@pytest.mark.parametrize("api", STREAMS)
def test_a_wrong_call_is_repaired_and_the_events_stay_the_same(api: str) -> None:
    pieces = STREAMS[api](BAD)
    for sent in (pieces, [b"".join(pieces)], b"".join(pieces).splitlines(keepends=True)):
        out, calls = passed(api, sent)
        assert arguments_of(api, out) == '{"lines":3}' and calls.count == 1
        assert [(v.get("type"), sorted(v)) for v in values(out)] == [
            (v.get("type"), sorted(v)) for v in values(b"".join(pieces))
        ]
        assert b"'3'" not in out, "the summaries at the end are repaired too"


@pytest.mark.parametrize(
    ("api", "reason"), [("chat", "length"), ("anthropic", "max_tokens"), ("responses", "incomplete")]
)
def test_a_call_that_was_cut_is_not_completed(api: str, reason: str) -> None:
    pieces = STREAMS[api](BAD, reason)
    out, calls = passed(api, pieces)
    assert out == b"".join(pieces) and calls.count == 0


@pytest.mark.parametrize("api", STREAMS)
def test_what_does_not_belong_to_a_call_is_not_held(api: str) -> None:
    calls = repairer(api)
    pieces = STREAMS[api](BAD)
    start = next(n for n, piece in enumerate(pieces) if b"read" in piece and b"I read" not in piece)
    assert b"".join(map(calls.stream, pieces[:start])) == b"".join(pieces[:start])
    for piece in pieces[start:]:
        calls.stream(piece)
        assert calls.stream(b": comment\n\n") == b": comment\n\n"
    text = chunk(text="meanwhile")
    open_call = repairer()
    open_call.stream(chunk([fragment("{", name="read")]))
    assert open_call.stream(text) == text


def test_a_ping_is_not_held_and_held_events_keep_their_names() -> None:
    lines = b"".join(anthropic_stream(GOOD)).splitlines(keepends=True)
    ping = event({"type": "ping"}, "ping")
    stop = next(n for n, line in enumerate(lines) if b"content_block_stop" in line and b'"index": 1' in line)
    calls = repairer("anthropic")
    out = b"".join([calls.stream(line) for line in lines[: stop + 2]])
    assert calls.stream(ping) == ping
    out += b"".join([calls.stream(line) for line in lines[stop + 2 :]])
    assert out + calls.end() == b"".join(lines)


def test_each_of_several_calls_is_repaired_when_the_next_begins() -> None:
    pieces = chat_stream(('{"lines":', '"3"}'), calls=3)
    calls = repairer()
    out = [calls.stream(piece) for piece in pieces]
    assert arguments_of("chat", out[4]) == '{"lines":3}', "the first call is complete with the second"
    assert arguments_of("chat", b"".join(out)) == '{"lines":3}' * 3 and calls.count == 3


def test_mixed_fragments_of_parallel_calls_stay_whole() -> None:
    pieces = [
        chunk([fragment('{"li', 0, id="a", name="read")]),
        chunk([fragment('{"lines":', 1, id="b", name="read")]),
        chunk([fragment('nes": 1}', 0)]),
        chunk([fragment("2}", 1)]),
        chunk(finish="tool_calls"),
    ]
    out, calls = passed("chat", pieces)
    assert out == b"".join(pieces) and calls.count == 0
    out, calls = passed("chat", [*pieces[:3], chunk(finish="length")])
    assert out == b"".join([*pieces[:3], chunk(finish="length")]) and calls.count == 0


def test_calls_with_one_index_but_other_ids_are_several() -> None:
    pieces = [
        chunk([fragment("{'lines':1}", id="a", name="read")]),
        chunk([fragment("{'lines':2}", id="b", name="read")]),
        chunk(finish="tool_calls"),
    ]
    assert arguments_of("chat", passed("chat", pieces)[0]) == '{"lines":1}{"lines":2}'


def joined(stream: bytes) -> dict[tuple[int, int], list[str]]:
    """Name and arguments of each call by choice and index, as clients join them."""
    calls: dict[tuple[int, int], list[str]] = {}
    for value in values(stream):
        for choice in value["choices"]:
            for sent in choice["delta"].get("tool_calls", []):
                call = calls.setdefault((choice["index"], sent["index"]), ["", ""])
                call[0] += sent["function"].get("name", "")
                call[1] += sent["function"].get("arguments") or ""
    return calls


def unnumbered(call: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "index"}


BOTH = {(0, 0): ["read", '{"lines":1}'], (0, 1): ["read", '{"lines":2}']}
FIRST = [fragment('{"lines":', id="a", name="read"), fragment("1}")]
SECOND = [fragment('{"lines":', id="b", name="read"), fragment("2}")]
WHOLE = [fragment('{"lines":1}', id="a", name="read"), fragment('{"lines":2}', id="b", name="read")]


@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize(
    "chunks",
    [
        [[one] for one in FIRST + SECOND],
        [[one] for one in WHOLE],
        [WHOLE],
        [[fragment({"lines": 1}, id="a", name="read"), WHOLE[1]]],
    ],
)
def test_parallel_calls_with_one_index_or_none_get_indices_of_their_own(chunks: list[Any], has_index: bool) -> None:
    sent = [chunk([call if has_index else unnumbered(call) for call in calls]) for calls in chunks]
    pieces = [*sent, chunk(finish="tool_calls"), b"data: [DONE]\n\n"]
    for given in (pieces, [b"".join(pieces)]):
        assert joined(passed("chat", given)[0]) == BOTH


def test_each_choice_has_its_own_indices_and_right_ones_stay() -> None:
    def of_choice(number: int, call: dict[str, Any]) -> bytes:
        return event({"choices": [{"index": number, "delta": {"tool_calls": [call]}, "finish_reason": None}]})

    right = [of_choice(choice, {**call, "index": 3 - at}) for choice in (0, 1) for at, call in enumerate(WHOLE)]
    out, _ = passed("chat", [*right, chunk(finish="tool_calls")])
    assert out == b"".join([*right, chunk(finish="tool_calls")])
    wrong = [of_choice(choice, call) for choice in (0, 1) for call in WHOLE]
    out, _ = passed("chat", [*wrong, chunk(finish="tool_calls")])
    assert joined(out) == BOTH | {(1, index): call for (_, index), call in BOTH.items()}
    assert out.startswith(wrong[0])


@pytest.mark.parametrize("form", [float, str])
def test_an_index_of_another_type_stays_and_numbers_the_call(form: type) -> None:
    mixed = [one | {"index": form(index)} for pair in zip(FIRST, SECOND, strict=True) for index, one in enumerate(pair)]
    sent = [chunk([one]) for one in mixed]
    numbered = [piece.replace(b'"choices":[{"index":0', b'"choices":[{"index":"0"') for piece in sent]
    for pieces in (sent, numbered):
        for repairs in (True, False):
            calls = PassedToolCalls(b"{}", repairs)
            out = b"".join([calls.stream(piece) for piece in pieces]) + calls.end()
            assert out == b"".join(pieces)


def test_an_index_that_was_given_to_another_call_is_replaced() -> None:
    pieces = [chunk([one]) for one in [*WHOLE, fragment('{"lines":', 1, id="c", name="read"), fragment("3}", 1)]]
    out, _ = passed("chat", [*pieces, chunk(finish="tool_calls")])
    assert joined(out) == BOTH | {(0, 2): ["read", '{"lines":3}']}


def test_arguments_that_are_an_object_become_a_text() -> None:
    function: dict[str, Any] = {"name": "read", "arguments": {"lines": 3}}
    for api in ("chat", "responses"):
        body = json.dumps(document(api, "", "stop")).replace('"arguments": ""', '"arguments": {"lines": 3}').encode()
        calls = repairer(api)
        assert b'{\\"lines\\":3}' in calls.document(body) and calls.count
    pieces = [chunk([{"index": 0, "id": "a", "function": function}]), chunk(finish="tool_calls")]
    assert joined(passed("chat", pieces)[0]) == {(0, 0): ["read", '{"lines":3}']}


def test_a_very_long_call_is_passed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_tool_calls, "HELD_MAX_BYTES", 200)
    pieces = chat_stream(BAD)
    assert passed("chat", pieces)[0] == b"".join(pieces)


SAME_INDEX = [
    chunk([fragment('{"lines":', 0, id="a", name="read")]),
    chunk([fragment(" 1}", 0)]),
    chunk([fragment('{"lines":', 0, id="b", name="read")]),
    chunk([fragment("'2'}", 0)]),
    chunk(finish="tool_calls"),
    b"data: [DONE]\n\n",
]


def numbered(calls: PassedToolCalls, pieces: list[bytes], lines: int) -> bytes:
    """What is forwarded if this many lines arrive at once."""
    sent = b"".join(pieces).splitlines(keepends=True)
    parts = [b"".join(sent[at : at + lines]) for at in range(0, len(sent), lines)]
    return b"".join([calls.stream(part) for part in parts]) + calls.end()


@pytest.mark.parametrize("lines", [1, 2, 5, 100])
def test_calls_have_indices_of_their_own_without_repair(lines: int) -> None:
    calls = PassedToolCalls(json.dumps(REQUESTS["chat"]).encode(), is_repairing=False)
    out = numbered(calls, SAME_INDEX, lines)
    assert joined(out) == {(0, 0): ["read", '{"lines": 1}'], (0, 1): ["read", "{\"lines\":'2'}"]}
    assert calls.count == 0
    unchanged = [SAME_INDEX[0], SAME_INDEX[1], *SAME_INDEX[4:]]
    assert numbered(PassedToolCalls(b"{}", is_repairing=False), unchanged, lines) == b"".join(unchanged)
    assert PassedToolCalls(b"{}", is_repairing=False).document(b'{"tool_calls": 1}') == b'{"tool_calls": 1}'


@pytest.mark.parametrize("lines", [1, 2, 100])
def test_calls_after_a_very_long_one_have_indices_of_their_own(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_tool_calls, "HELD_MAX_BYTES", 200)
    long = [chunk([fragment('{"lines": "', 0, id="a", name="read")]), chunk([fragment("x" * 300, 0)])]
    out = numbered(repairer(), [*long, chunk([fragment('"}', 0)]), *SAME_INDEX[2:]], lines)
    assert [len(arguments) for _, arguments in joined(out).values()] == [len('{"lines": ""}') + 300, 13]


def test_a_stream_that_is_interrupted_loses_nothing() -> None:
    pieces = chat_stream(BAD)[:-2]
    out, calls = passed("chat", [*pieces, b"data: {half"])
    assert out == b"".join(pieces) + b"data: {half" and calls.count == 0


def test_ollamas_lines_are_repaired_by_type() -> None:
    def line(lines: object) -> bytes:
        calls = [{"function": {"name": "read", "arguments": {"lines": lines}}}]
        return json.dumps({"message": {"role": "assistant", "tool_calls": calls}, "done": False}).encode() + b"\n"

    calls = repairer()
    assert calls.stream(line(3)) == line(3)
    out = json.loads(calls.stream(line("3")))
    assert out["message"]["tool_calls"][0]["function"]["arguments"] == {"lines": 3} and calls.count == 1


def document(api: str, arguments: str, reason: str) -> dict[str, Any]:
    function = {"name": "read", "arguments": arguments}
    return {
        "chat": {"choices": [{"message": {"tool_calls": [{"function": function}]}, "finish_reason": reason}]},
        "responses": {"output": [{"type": "function_call", "status": reason, **function}]},
        "anthropic": {
            "content": [{"type": "tool_use", "name": "read", "input": {"lines": "3"}}],
            "stop_reason": reason,
        },
    }[api]


@pytest.mark.parametrize("api", REQUESTS)
def test_a_complete_answer_is_repaired(api: str) -> None:
    calls = repairer(api)
    out = calls.document(json.dumps(document(api, "{'lines': '3',}", "stop")).encode())
    assert (b'{\\"lines\\":3}' in out or b'"input":{"lines":3}' in out) and calls.count == 1
    cut = json.dumps(document(api, "{'lines': '3',", "length")).encode()
    assert repairer(api).document(cut) == cut


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"tool_calls": 1}', b'"tool_calls"', b'{ "choices": [], "tool_calls":[]}']
)
def test_other_documents_keep_their_bytes(body: bytes) -> None:
    assert repairer().document(body) == body


@pytest.mark.parametrize("request_body", [b"", b"{}", b'{"tools": 3}', b'{"tools": [1, {"function": 2}]}'])
def test_without_schemas_only_the_json_is_repaired(request_body: bytes) -> None:
    calls = PassedToolCalls(request_body)
    out = b"".join(map(calls.stream, chat_stream(BAD)))
    assert json.loads(arguments_of("chat", out)) == {"lines": "3"}


ODD = [
    {"choices": 3},
    {"choices": [1, {"delta": 2}, {"delta": {"tool_calls": [1, {"function": 3}, {"function": {"arguments": 4}}]}}]},
    {"type": "content_block_start", "content_block": {"type": "tool_use", "name": 3}},
    {"type": "content_block_delta", "delta": {"partial_json": 3}},
    {"type": "content_block_delta"},
    {"type": "response.function_call_arguments.delta"},
    {"type": "response.output_item.done", "item": {}},
    {"type": "response.completed", "response": {"output": [{"type": "function_call"}]}},
    {"message": {"tool_calls": {}}},
    {"message": 3, "content": [3], "output": [3]},
    [],
    3,
]


@pytest.mark.parametrize("first", ODD)
def test_events_of_odd_shapes_are_passed_on(first: object) -> None:
    for second in ODD:
        pieces = [event({"tool_calls": 1}), event(first), event(second), event(first)]
        assert len(values(passed("chat", pieces)[0])) == len(values(b"".join(pieces)))
