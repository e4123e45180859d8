"""Answers have the form of an answer: real ones, empty ones that say so, and whatever an engine says about a model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes import engine_failures
from fakes.engine_failures import Spelling
from fakes.scripted import short_answers
from herd.coordinator.proxy.pass_through import PassThrough
from herd.core.state.request import RequestKind
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT as OPENAI
from herd.engines import Engine
from herd.engines.llamacpp import ENGINE as LLAMACPP
from herd.engines.ollama import ENGINE as OLLAMA_ENGINE
from herd.protocols.answers import forms
from herd.protocols.conversation import Conversation, ParsedRequest
from protocol_samples import FOLDER, Sample, sample
from protocol_samples import LLAMACPP as LLAMACPP_SAMPLES

ROUTES = {route.path: (dialect, route) for dialect in (OPENAI, ANTHROPIC, OLLAMA) for route in dialect.routes}


def recorded() -> Iterator[tuple[str, Sample, Engine]]:
    """Every recorded answer of status 200 to a request for inference whose text is not shortened in its file."""
    for folder, engine in ((FOLDER, OLLAMA_ENGINE), (LLAMACPP_SAMPLES, LLAMACPP)):
        for file in sorted(folder.glob("*.txt")):
            exchange = sample(file.stem, folder)
            if exchange.status == 200 and exchange.path in ROUTES and exchange.request.endswith(b"}"):
                yield f"{folder.name}: {file.stem}", exchange, engine


RECORDED = list(recorded())


def parsed(exchange: Sample) -> tuple[Dialect, ParsedRequest]:
    dialect, route = ROUTES[exchange.path]
    return dialect, dialect.parse(route, exchange.request)


def a_request(path: str, stream: bool) -> tuple[Dialect, ParsedRequest]:
    """A request with a text to any path."""
    dialect, route = ROUTES[path]
    streams = b"true" if stream else b"false"
    body = b'{"model":"m","stream":%b,"max_tokens":9,"prompt":"Hi.","input":"Hi.","messages":[%b]}'
    return dialect, dialect.parse(route, body % (streams, b'{"role":"user","content":"Hi."}'))


def passed(dialect: Dialect, request: ParsedRequest, answer: bytes, size: int) -> PassThrough:
    through = PassThrough(dialect.watcher(request), streams=request.stream, takes_events=dialect is not OLLAMA)
    out = b"".join(through.feed(answer[at : at + size]) for at in range(0, len(answer), size))
    out += through.end(b"" if request.stream else out)
    assert through.counters() is None or not request.stream or out == answer
    return through


def test_there_are_recordings_of_every_kind() -> None:
    paths = {exchange.path for _, exchange, _ in RECORDED}
    assert len(RECORDED) > 40 and {path for path in ROUTES if path != "/api/show"} <= paths


@pytest.mark.parametrize(("name", "exchange", "engine"), RECORDED, ids=[name for name, _, _ in RECORDED])
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_every_recorded_answer_is_one(name: str, exchange: Sample, engine: Engine, size: int) -> None:
    dialect, request = parsed(exchange)
    through = passed(dialect, request, exchange.body, size)
    assert through.counters() is not None and not through.has_failed


@pytest.mark.parametrize(("name", "exchange", "engine"), RECORDED, ids=[name for name, _, _ in RECORDED])
def test_every_recorded_answer_can_be_translated(name: str, exchange: Sample, engine: Engine) -> None:
    dialect, request = parsed(exchange)
    if request.route.kind is RequestKind.INFO or request.route.path in ("/v1/messages", "/v1/responses"):
        return  # no engine is asked there by a translation
    if exchange.path.startswith("/v1/") == (engine is OLLAMA_ENGINE) or b"base64" in exchange.request:
        return  # a translation asks for numbers
    reader = engine.reader(dialect.read_conversation(request))
    deltas = [*reader.feed(exchange.body), *reader.end()]
    assert deltas[-1].is_last and all(delta.error is None for delta in deltas)


@pytest.mark.parametrize("path", [path for path, (_, route) in ROUTES.items() if route.kind is not RequestKind.INFO])
@pytest.mark.parametrize("spelling", engine_failures.DOCUMENTS, ids=lambda spelling: spelling.source)
def test_document_without_an_answer_is_none(spelling: Spelling, path: str) -> None:
    dialect, request = a_request(path, stream=False)
    assert passed(dialect, request, spelling.failure, 1 << 20).counters() is None
    for engine in (OLLAMA_ENGINE, LLAMACPP):
        try:
            reader = engine.reader(dialect.read_conversation(request))
            deltas = [*reader.feed(spelling.failure), *reader.end()]
        except ValueError:
            continue
        assert not any(delta.is_last for delta in deltas)


@pytest.mark.parametrize("path", short_answers.STREAMS)
@pytest.mark.parametrize("spelling", engine_failures.FIRST_EVENTS, ids=lambda spelling: spelling.source)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_stream_without_an_answer_sends_nothing(spelling: Spelling, path: str, size: int) -> None:
    dialect, request = a_request(path, stream=True)
    through = PassThrough(dialect.watcher(request), streams=True, takes_events=dialect is not OLLAMA)
    stream = spelling.failure + spelling.after
    assert b"".join(through.feed(stream[at : at + size]) for at in range(0, len(stream), size)) == b""
    through.end(b"")
    assert through.counters() is None


EMPTY = (
    ("/v1/chat/completions", b'{"choices":[{"message":{"role":"assistant","content":""},"finish_reason":"stop"}]}'),
    ("/v1/chat/completions", b'{"choices":[{"message":{"content":null},"finish_reason":"length"}]}'),
    ("/v1/chat/completions", b'{"choices":[{"message":{"role":"assistant"},"finish_reason":"content_filter"}]}'),
    ("/v1/chat/completions", b'{"choices":[{"message":{"content":null,"refusal":"no"},"finish_reason":null}]}'),
    ("/v1/chat/completions", b'{"choices":[null,{"message":{"content":"Hi"}}]}'),
    ("/v1/chat/completions", b'{"error":null,"choices":[{"message":{"reasoning":"Hm"},"finish_reason":"length"}]}'),
    ("/v1/chat/completions", b'{"choices":[{"message":{"tool_calls":[{"id":"1"}]},"finish_reason":null}]}'),
    ("/v1/chat/completions", b'{ "choices" : [ { "message" : { "content" : "" }, "finish_reason" : "stop" } ] }'),
    ("/v1/completions", b'{"choices":[{"text":"","finish_reason":"stop"}]}'),
    ("/v1/completions", b'{"choices":[{"text":"Hi"}]}'),
    ("/v1/responses", b'{"status":"completed","output":[]}'),
    ("/v1/responses", b'{"status":"incomplete","output":[],"incomplete_details":{"reason":"max_output_tokens"}}'),
    ("/v1/responses", b'{"output":[{"type":"message","content":[]}]}'),
    ("/v1/messages", b'{"type":"message","content":[],"stop_reason":"end_turn"}'),
    ("/v1/messages", b'{"type":"message","content":[{"type":"text","text":""}],"stop_reason":null}'),
    ("/v1/messages", b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'),
    ("/api/chat", b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}'),
    ("/api/chat", b'{"message":{"role":"assistant","content":"a a a"},"done":false}'),
    ("/api/chat", b'{"model":"m","done":true,"done_reason":"unload"}'),
    ("/api/generate", b'{"response":"","done":true}'),
    ("/api/generate", b'{"response":"","thinking":"Hm","done":false}'),
    ("/api/generate", b'{"model":"m","_debug_info":{"rendered_template":"..."}}'),
    ("/api/show", b'{"model_info":{}}'),
    ("/api/show", b"{}"),
    ("/v1/messages/count_tokens", b'{"input_tokens":0}'),
    ("/v1/messages/count_tokens", b"{}"),
)


@pytest.mark.parametrize(("path", "document"), EMPTY)
def test_empty_answer_that_says_so_is_an_answer(path: str, document: bytes) -> None:
    dialect, request = a_request(path, stream=False)
    assert passed(dialect, request, document, 1 << 20).counters() is not None


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
@pytest.mark.parametrize("given", [b"[]", b'""'])
def test_no_text_has_no_vectors(path: str, given: bytes) -> None:
    dialect, route = ROUTES[path]
    request = dialect.parse(route, b'{"model":"m","input":%b}' % given)
    document = b'{"embeddings":[]}' if path == "/api/embed" else b'{"object":"list","data":[]}'
    assert passed(dialect, request, document, 1 << 20).counters() is not None
    assert passed(dialect, request, b"{}", 1 << 20).counters() is None
    conversation = Conversation(kind=RequestKind.EMBED, model="m", stream=False, inputs=[])
    reader = OLLAMA_ENGINE.reader(conversation)
    deltas = [*reader.feed(b'{"embeddings":[]}'), *reader.end()]
    assert [(delta.embeddings, delta.is_last) for delta in deltas] == [([], True)]


def test_a_response_may_be_queued_if_its_request_allows_it() -> None:
    dialect, route = ROUTES["/v1/responses"]
    request = dialect.parse(route, b'{"model":"m","input":"Hi.","background":true}')
    queued = b'{"id":"r","object":"response","status":"queued","output":[]}'
    assert passed(dialect, request, queued, 1 << 20).counters() is not None
    assert passed(dialect, request, b'{"status":"queued"}', 1 << 20).counters() is None


FORMS = (forms.CHOICES, forms.RESPONSE, forms.MESSAGE, forms.LINES)


@pytest.mark.parametrize("path", short_answers.STREAMS)
def test_stream_begins_with_its_first_event_after_whatever_has_no_content(path: str) -> None:
    form = {"/v1/responses": forms.RESPONSE, "/v1/messages": forms.MESSAGE}.get(path, forms.CHOICES)
    form = forms.LINES if path.startswith("/api/") else form
    stream = short_answers.STREAMS[path]
    first = stream[: stream.index(b"\n", stream.index(b"{")) + 1]
    for before in (b"", b": ping\n\n", b"{}\n" if form is forms.LINES else b"data: {}\n\n"):
        assert form.has_begun(before + first)
        assert form.has_begun((before + first).replace(b'":', b'": '))
        assert not form.has_begun(before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spelling", engine_failures.FIRST_EVENTS, ids=lambda spelling: spelling.source)
def test_stream_does_not_begin_with_what_has_no_content(form: forms.AnswerForm, spelling: Spelling) -> None:
    assert not form.has_begun(spelling.failure) or spelling.source == "Anthropic, an end of nothing"


@pytest.mark.parametrize("form", FORMS)
def test_what_has_no_known_beginning_is_not_held_for_ever(form: forms.AnswerForm) -> None:
    assert not form.has_begun(b": ping\n\n" * 100)
    assert form.has_begun(b": ping\n\n" * 100_000)


def test_event_of_several_lines_begins_an_answer() -> None:
    assert forms.CHOICES.has_begun(b'data: {"choices":\ndata: [{"delta":{}}]}\n\n')


def test_an_empty_answer_of_ollama_is_one_if_it_counts_its_end() -> None:
    """Recorded from Ollama 0.32.15, whose model had ended at once: the content is null."""
    dialect, request = a_request("/v1/messages", stream=False)
    recorded = (
        b'{"id":"msg_761c25c18700e975ad5580fc","type":"message","role":"assistant","model":"m","content":null,'
        b'"stop_reason":"end_turn","usage":{"input_tokens":19,"output_tokens":%s}}\n'
    )
    counters = passed(dialect, request, recorded % b"1", 1 << 20).counters()
    assert counters is not None and (counters.prompt_tokens, counters.completion_tokens) == (19, 1)
    for nothing in (b"0", b"null"):
        assert passed(dialect, request, recorded % nothing, 1 << 20).counters() is None
