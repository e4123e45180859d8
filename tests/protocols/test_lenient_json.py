"""Half characters and unusual numbers break nothing, in requests and answers of every protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import herd.dialects
import herd.engines
from herd.core.state.request import RequestKind
from herd.dialects import Dialect, Timestamp
from herd.discover import discover
from herd.engines import Engine
from herd.errors import BadRequest
from herd.protocols.conversation import Conversation, Delta, Message, ToolCall
from herd.protocols.valid_text import valid_text

DIALECTS = discover(herd.dialects, Dialect, "DIALECT")  # type: ignore[type-abstract]
ENGINES = {engine.kind: engine for engine in discover(herd.engines, Engine, "ENGINE")}  # type: ignore[type-abstract]
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ROUTES = [(dialect, route) for dialect in DIALECTS for route in dialect.routes if route.kind is not RequestKind.INFO]


def talk(stream: bool = True) -> Conversation:
    return Conversation(kind=RequestKind.CHAT, model="m", stream=stream, messages=[Message("user", "hi")])


def read(kind: str, *chunks: bytes, stream: bool = True) -> list[Delta]:
    reader = ENGINES[kind].reader(talk(stream))
    return [delta for chunk in chunks for delta in reader.feed(chunk)] + reader.end()


def openai_event(content: str, field: str = "content", more: str = "") -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"%s":"%s"}%s}]}\n\n' % (
        field.encode(),
        content.encode(),
        more.encode(),
    )


def ollama_line(content: str, field: str = "content", more: str = "") -> bytes:
    return b'{"message":{"role":"assistant","%s":"%s"},"done":false%s}\n' % (
        field.encode(),
        content.encode(),
        more.encode(),
    )


# --- requests ---


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (rb"a\ud83d", "a\ufffd"),
        (rb"\uDE00b", "\ufffdb"),
        (rb"\ud83d\u0041", "\ufffdA"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (rb"\\ud83d", r"\ud83d"),
        (rb"\\\ud83d", "\\\ufffd"),
        (rb"\ud83d\ude00", "\U0001f600"),
        (b"a\xffb", "a\ufffdb"),
        (b"\xf0\x9f\x98", "\ufffd"),
    ],
)
def test_invalid_text_becomes_the_replacement_character(sent: bytes, text: str) -> None:
    assert json.loads(valid_text(b'"%s"' % sent)) == text


@pytest.mark.parametrize(("dialect", "route"), ROUTES, ids=lambda value: getattr(value, "path", ""))
@pytest.mark.parametrize("half", [rb"\ud83d", rb"\udc00 \ud83d", b"\xed\xa0\xbd", b"\xff"])
def test_every_route_accepts_half_a_character_in_every_string(dialect: Dialect, route: Any, half: bytes) -> None:
    body = (
        b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"xHALF"}],"prompt":"xHALF","input":"xHALF",'
    )
    body = (body + b'"metadata":{"kHALF":"HALF"},"unknown":["HALF"],"stop":"HALF"}').replace(b"HALF", half)
    request = dialect.parse(route, body)
    conversation = dialect.read_conversation(request)
    texts = [*conversation.inputs, conversation.prompt, *(message.text for message in conversation.messages)]
    assert any(text.startswith("x\ufffd") for text in texts)
    sent = json.loads(dialect.rewrite(request, "other"))
    assert "\ufffd" in sent["unknown"][0] and not any("\ud800" <= c <= "\udfff" for c in str(sent))
    for engine in ENGINES.values():
        assert json.loads(engine.build_request(conversation).body)


@pytest.mark.parametrize(("dialect", "route"), ROUTES, ids=lambda value: getattr(value, "path", ""))
def test_a_valid_body_is_not_copied(dialect: Dialect, route: Any) -> None:
    body = (
        rb'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"\ud83d\ude00"}],"prompt":"x","input":"x"}'
    )
    assert dialect.parse(route, body).body is body


@pytest.mark.parametrize(
    "body", [b"{", b"\xff", rb'{"model":"\ud83d', b'{"model":7,"x":"\xff"}', b"\xff\xfe{\x00}\x00"]
)
def test_other_faults_stay_bad_requests(body: bytes) -> None:
    for dialect, route in ROUTES:
        with pytest.raises(BadRequest):
            dialect.parse(route, body)


# --- answers ---


@pytest.mark.parametrize(("kind", "event"), [("openai", openai_event), ("ollama", ollama_line)])
@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([r"a\ud83d", r"\ude00b"], "a\U0001f600b"),
        ([r"\ud83d", r"\ude00", "c"], "\U0001f600c"),
        ([r"a\ud83d", "b"], "a\ufffdb"),
        ([r"a\ud83d", r"\ud83d", r"\ude00"], "a\ufffd\U0001f600"),
        ([r"\ude00", "b"], "\ufffdb"),
        ([r"a\ud83db", "c"], "a\ufffdbc"),
    ],
)
@pytest.mark.parametrize("is_thinking", [False, True])
def test_a_character_in_two_chunks_is_joined(
    kind: str, event: Any, texts: list[str], joined: str, is_thinking: bool
) -> None:
    name = ("reasoning" if kind == "openai" else "thinking") if is_thinking else "content"
    deltas = read(kind, *(event(text, name) for text in texts))
    assert "".join(delta.thinking if is_thinking else delta.text for delta in deltas) == joined


@pytest.mark.parametrize(("kind", "event"), [("openai", openai_event), ("ollama", ollama_line)])
@pytest.mark.parametrize("invalid", [b"\xff", b"\xc3", b"\xed\xa0\xbd"])
def test_invalid_utf8_is_replaced(kind: str, event: Any, invalid: bytes) -> None:
    deltas = read(kind, event("first"), event("a_b").replace(b"a_b", b"a" + invalid + b"b"), event("c"))
    text = "".join(delta.text for delta in deltas)
    assert text.startswith("firsta\ufffd") and text.endswith("bc") and not text.strip("firstabc\ufffd")


@pytest.mark.parametrize(("kind", "event"), [("openai", openai_event), ("ollama", ollama_line)])
def test_half_a_character_elsewhere_is_replaced(kind: str, event: Any) -> None:
    more = r',"logprobs":{"content":[{"token":"\ud83d"}]}'
    (delta,) = read(kind, event("a", more=more))
    assert delta.text == "a" and "\ufffd" in str(delta.logprobs)
    calls = rb'"tool_calls":[{"index":0,"id":"\ud83d","function":{"name":"f","arguments":%s}}]'
    arguments = rb'"{\"x\":\"\ud83d\"}"' if kind == "openai" else rb'{"x":"\ud83d"}'
    frame = b'data: {"choices":[{"delta":{%s}}]}\n\n' if kind == "openai" else b'{"message":{%s}}\n'
    (delta,) = read(kind, frame % (calls % arguments))
    assert delta.tool_calls[0].arguments_object == {"x": "\ufffd"}


def test_half_a_character_in_nested_arguments_is_replaced() -> None:
    assert ToolCall(0, "", "f", r'{"x":"\ud83d"}').arguments_object == {"x": "\ufffd"}


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_half_a_character_in_a_document_is_replaced(kind: str) -> None:
    inner = rb'"message":{"role":"assistant","content":"a\ud83d"}'
    body = b'{"choices":[{%s}]}' % inner if kind == "openai" else b'{%s,"done":true}' % inner
    (delta,) = read(kind, body, stream=False)
    assert delta.text == "a\ufffd" and delta.is_last


# --- side fields ---


@pytest.mark.parametrize(
    ("usage", "prompt", "completion"),
    [
        ('{"prompt_tokens":12.0,"completion_tokens":3.0}', 12, 3),
        ('{"prompt_tokens":12.7,"completion_tokens":null}', 12, None),
        ('{"prompt_tokens":-1,"completion_tokens":3}', None, 3),
        ('{"prompt_tokens":1e30,"completion_tokens":99999999999999999999}', None, None),
        ('{"prompt_tokens":1e999,"completion_tokens":3}', None, 3),
        ('{"prompt_tokens":"12"}', 12, None),
        ('{"prompt_tokens":"12.0","completion_tokens":"many"}', 12, None),
        ('{"prompt_tokens":{},"completion_tokens":3}', None, 3),
        ("null", None, None),
        ("[]", None, None),
        ('"n/a"', None, None),
        ("{}", None, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_unusual_counters_do_not_break_an_answer_of_openais_protocol(
    usage: str, prompt: int | None, completion: int | None, stream: bool
) -> None:
    body = b'{"usage":%s,"choices":[{"%s":{"content":"a"},"finish_reason":"stop"}]}' % (
        usage.encode(),
        b"delta" if stream else b"message",
    )
    (delta,) = read("openai", b"data: " + body + b"\n\n" if stream else body, stream=stream)
    found = (delta.usage.prompt_tokens, delta.usage.completion_tokens) if delta.usage is not None else (None, None)
    assert (delta.text, delta.finish_reason, found) == ("a", "stop", (prompt, completion))
    assert all(value is None or type(value) is int for value in found)
    (dialect,) = (dialect for dialect in DIALECTS if dialect.name == "openai")
    parsed = dialect.parse(dialect.routes[0], json.dumps(ASK | {"stream": stream}).encode())
    watcher = dialect.watcher(parsed)
    watcher.feed(b"data: " + body + b"\n\ndata: [DONE]\n\n" if stream else body)
    counters = watcher.end()
    assert counters is not None and counters.finish_reason == "stop" and counters.prompt_tokens == prompt


@pytest.mark.parametrize("number", ["12.0", '"12"', "-5", "1e30", "1e999", "null", '"x"', "[]", "99999999999999999999"])
def test_unusual_counters_do_not_break_an_answer_of_ollama(number: str) -> None:
    names = ("total_duration", "load_duration", "prompt_eval_count", "eval_count", "eval_duration")
    line = (
        '{"message":{"content":"a"},"done":true,"done_reason":"stop",'
        + ",".join(f'"{n}":{number}' for n in names)
        + "}"
    )
    (delta,) = read("ollama", line.encode() + b"\n")
    assert (delta.text, delta.finish_reason, delta.is_last) == ("a", "stop", True)
    assert delta.usage is not None and delta.usage.prompt_tokens == (12 if number in ("12.0", '"12"') else None)
    (dialect,) = (dialect for dialect in DIALECTS if dialect.name == "ollama")
    watcher = dialect.watcher(dialect.parse(dialect.routes[0], b'{"model":"m","messages":[]}'))
    watcher.feed(line.encode() + b"\n")
    counters = watcher.end()
    assert counters is not None and counters.finish_reason == "stop"
    assert counters.decode_s is None or counters.decode_s >= 0


CALL = '"tool_calls":[{"index":%s,"id":%s,"function":{"name":"f","arguments":"{}"}}]'


@pytest.mark.parametrize(
    ("member", "calls"),
    [
        (CALL % ("0.0", '"a"'), [(0, "a")]),
        (CALL % ('"0"', '"a"'), [(0, "a")]),
        (CALL % ("[]", "7"), [(0, "7")]),
        (CALL % ("0", "7.0"), [(0, "7")]),
        (CALL % ("null", "{}"), [(0, "")]),
        ('"tool_calls":[{"id":7,"function":{"name":"f","arguments":[]}}]', [(0, "7")]),
        ('"role":7,"tool_calls":[{"type":1,"function":{"name":"f","arguments":{}}}]', [(0, "")]),
    ],
)
@pytest.mark.parametrize("place", ['"index":0', '"index":"0"', '"index":0.0', '"index":[]', '"finish_reason":{}'])
@pytest.mark.parametrize("around", ['"created":1.5', '"created":"now","id":5', '"usage":7,"timings":[]'])
def test_a_call_is_read_whatever_the_types_around_it(
    member: str, calls: list[tuple[int, str]], place: str, around: str
) -> None:
    event = f'{{{around},"choices":[{{{place},"delta":{{{member}}}}}]}}'.encode()
    (delta, *_) = read("openai", b"data: " + event + b"\n\n")
    assert [(call.index, call.id, call.name) for call in delta.tool_calls] == [(*call, "f") for call in calls]
    document = event.replace(b'"delta"', b'"message"')
    (whole,) = read("openai", document.replace(b'"finish_reason":{}', b'"finish_reason":"tool_calls"'), stream=False)
    assert [(call.id, call.arguments_object) for call in whole.tool_calls] == [(id, {}) for _, id in calls]


@pytest.mark.parametrize("done", ["true", '"true"', "1"])
@pytest.mark.parametrize("reason", ['"stop"', "null", "[]"])
def test_an_ollama_like_line_is_read_whatever_the_types_around_it(done: str, reason: str) -> None:
    message = '{"role":7,"content":"a","tool_calls":[{"id":7,"function":{"name":"f","arguments":{}}}]}'
    line = f'{{"message":{message},"done":{done},"done_reason":{reason}}}\n'
    (delta,) = read("ollama", line.encode())
    assert (delta.text, delta.tool_calls[0].id, delta.finish_reason, delta.is_last) == ("a", "7", "tool_calls", True)


@pytest.mark.parametrize("index", ["0.0", '"0"', "null", "{}"])
def test_vectors_are_read_whatever_the_type_of_their_index(index: str) -> None:
    reader = ENGINES["openai"].reader(Conversation(kind=RequestKind.EMBED, model="m", stream=False, inputs=["x"]))
    reader.feed(f'{{"data":[{{"embedding":[0.5,"1",2],"index":{index}}}]}}'.encode())
    (delta,) = reader.end()
    assert delta.embeddings == [[0.5, 1.0, 2.0]]


@pytest.mark.parametrize(
    "message",
    ['{"content":{"a":1}}', '{"content":true}', '{"tool_calls":"f"}', '{"tool_calls":[{"function":{"name":{}}}]}', "7"],
)
def test_a_content_without_a_clear_meaning_stays_an_error(message: str) -> None:
    with pytest.raises(ValueError, match="does not follow OpenAI's protocol"):
        read("openai", f'data: {{"choices":[{{"delta":{message}}}]}}\n\n'.encode())


@pytest.mark.parametrize("count", ["3.0", '"3"', "{}", "true"])
@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_unusual_counters_end_no_passed_answer_of_the_other_apis(name: str, count: str) -> None:
    (dialect,) = (dialect for dialect in DIALECTS if dialect.name == name)
    path, events = {
        "anthropic": (
            "/v1/messages",
            '{"type":"message_start","message":{"usage":{"input_tokens":COUNT}}}\n'
            '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":COUNT}}\n'
            '{"type":"message_stop"}',
        ),
        "openai": (
            "/v1/responses",
            '{"type":"response.completed","response":{"status":"completed","output":[],"usage":{"output_tokens":COUNT}}}',
        ),
    }[name]
    route = next(route for route in dialect.routes if route.path == path)
    body = ASK | {"input": "hi", "max_tokens": 9, "stream": True}
    watcher = dialect.watcher(dialect.parse(route, json.dumps(body).encode()))
    for event in events.replace("COUNT", count).splitlines():
        watcher.feed(f"data: {event}\n\n".encode())
    counters = watcher.end()
    assert counters is not None and counters.finish_reason is not None
    assert counters.completion_tokens == (3 if "3" in count else None)


@pytest.mark.parametrize(
    "event",
    [
        b'{"id":"x","object":"chat.completion.chunk","created":1}',
        b'{"id":"x","choices":null}',
        b'{"id":"x","choices":[]}',
        b'{"choices":[null]}',
        b'{"choices":[{"index":0,"delta":null,"finish_reason":null}]}',
        b'{"choices":[{"index":null,"delta":{}}]}',
        b'{"choices":[{"index":0}],"usage":null}',
        b'{"choices":[{"index":1,"delta":{"content":"other"}}]}',
        b'{"type":"ping"}',
        b'{"prompt_filter_results":[{}],"error":null}',
    ],
)
def test_an_event_without_content_is_ignored(event: bytes) -> None:
    end = openai_event("a") + b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    deltas = read("openai", b"data: " + event + b"\n\n" + end)
    assert "".join(delta.text for delta in deltas) == "a" and deltas[-1].is_last


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([rb"\ud83d", b'data: {"choices":[{"delta":{"content":"']), max_size=6
    )
)
@settings(deadline=None)
def test_arbitrary_answers_raise_only_value_errors(chunks: list[bytes]) -> None:
    for kind in ("openai", "ollama"):
        try:
            read(kind, *chunks)
        except ValueError:
            continue
