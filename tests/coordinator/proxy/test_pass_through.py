"""Ends of streams and errors with status 200, passed on and translated, with a real core and real connections."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fakes import engine_failures
from fakes.raw_server import RawServer, Script, answers, breaks_off, chunked, whole
from herd.coordinator.proxy.pass_through import PassThrough
from herd.core.state.request import FailureKind, Outcome
from herd.dialects import Dialect
from herd.dialects.anthropic import DIALECT as ANTHROPIC
from herd.dialects.ollama import DIALECT as OLLAMA
from herd.dialects.openai import DIALECT as OPENAI
from herd.protocols.answers import forms
from relay_fixtures import TURN, Client, RelaySetup, a_relay_setup, run

EVENTS = b"Content-Type: text/event-stream\r\n"
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
CLIENTS: dict[str, tuple[Dialect, str, dict[str, Any]]] = {
    "openai": (OPENAI, "/v1/chat/completions", {"messages": TURN}),
    "completions": (OPENAI, "/v1/completions", {"prompt": "Say hi."}),
    "responses": (OPENAI, "/v1/responses", {"input": "Say hi."}),
    "anthropic": (ANTHROPIC, "/v1/messages", {"messages": TURN, "max_tokens": 9}),
    "ollama": (OLLAMA, "/api/chat", {"messages": TURN}),
    "generate": (OLLAMA, "/api/generate", {"prompt": "Say hi."}),
}
ENDS = {
    "openai": DONE,
    "completions": DONE,
    "responses": b'"type":"response.completed"',
    "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "ollama": b'"done":true',
    "generate": b'"done":true',
}


def as_dialect(name: str, client: Client) -> str:
    """The message of the error, which must have the format of the dialect."""
    if name == "anthropic":
        assert client.json["type"] == "error" and client.json["error"]["type"]
    error = client.json["error"]
    text = error if name in ("ollama", "generate") else error["message"]
    assert (
        isinstance(text, str)
        and "data:" not in text
        and client.answer_headers["content-type"].startswith("application/json")
    )
    return text


async def answered(setup: RelaySetup, name: str, **more: Any) -> Client:
    dialect, path, body = CLIENTS[name]
    return await setup.answered(path, dialect=dialect, **body | {"stream": True} | more)


# --- the end of a stream ---


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("after", [b"", USAGE, USAGE.rstrip(), USAGE.replace(b"\n", b"\r\n")])
def test_a_stream_with_a_finish_reason_needs_no_terminator(name: str, after: bytes) -> None:
    stream = TEXT + STOP + after
    if name == "completions":
        stream = stream.replace(b'"delta":{"content":"Hi"}', b'"text":"Hi"').replace(b'"delta":{}', b'"text":""')

    async def test() -> None:
        async with (
            RawServer(answers(chunked(stream, more=EVENTS))) as server,
            a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name)
            assert client.is_whole and setup.outcomes == [Outcome.COMPLETED]
            assert b"Hi" in client.answer and client.answer.count(ENDS[name]) == 1
            assert client.answer.rstrip().endswith(b"}" if ENDS[name].endswith(b"e") else ENDS[name].strip()) or (
                name == "responses"
            )
            assert b"error" not in client.answer.replace(b'"error":null', b"")
            if name == "openai":
                assert client.answer == stream.rstrip() + b"\n\n" + DONE or client.answer == stream + DONE
                assert setup.records[0].counters.finish_reason == "stop"

    run(test)


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama"])
@pytest.mark.parametrize("end", [b"\r", b"\r\n"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_stream_may_end_its_lines_with_cr(name: str, end: bytes, is_whole: bool) -> None:
    """Each chunk ends behind a CR, so that a LF is at the beginning of the next one."""
    stream = (TEXT + TEXT.replace(b"Hi", b" you") + STOP + USAGE + (DONE if is_whole else b"")).replace(b"\n", end)
    pieces = [piece + b"\r" for piece in stream.split(b"\r")[:-1]] + [stream.rpartition(b"\r")[2]]

    async def test() -> None:
        async with (
            RawServer(answers(chunked(*filter(None, pieces), more=EVENTS))) as server,
            a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name)
            assert client.is_whole and setup.outcomes == [Outcome.COMPLETED]
            assert b"Hi" in client.answer and b" you" in client.answer
            assert client.answer.replace(b"\r\n", b"\n").count(ENDS[name]) == 1
            assert setup.records[0].counters.prompt_tokens == 3

    run(test)


def test_an_anthropic_stream_with_a_stop_reason_needs_no_terminator() -> None:
    stream = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}\n\n'
    )

    async def test() -> None:
        async with (
            RawServer(answers(chunked(stream, more=EVENTS))) as server,
            a_relay_setup({"alpha": server.url}, kind="llamacpp") as setup,
        ):
            client = await answered(setup, "anthropic")
            assert client.is_whole and client.answer == stream + ENDS["anthropic"]

    run(test)


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama", "responses"])
@pytest.mark.parametrize(
    "script",
    [answers(chunked(TEXT, more=EVENTS)), answers(chunked(TEXT, STOP[:40], more=EVENTS))],
    ids=["no finish reason", "half a finish reason"],
)
def test_a_stream_without_its_end_stays_a_failure(name: str, script: Script) -> None:
    async def test() -> None:
        async with RawServer(script) as server, a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup:
            client = await answered(setup, name)
            assert not client.is_whole and setup.outcomes == [Outcome.FAILED_MIDSTREAM]

    run(test)


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama", "responses"])
def test_a_stream_that_ends_with_null_reasons_only_is_named_in_the_trace(name: str) -> None:
    """The chunks have the field, so the server knows reasons, and has given up."""

    async def test() -> None:
        script = answers(chunked(TEXT, USAGE, DONE, more=EVENTS))
        async with RawServer(script) as server, a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup:
            client = await answered(setup, name)
            assert not client.is_whole and setup.outcomes == [Outcome.FAILED_MIDSTREAM]
            attempt = setup.records[0].attempt
            assert attempt is not None and attempt.failure is not None
            assert "gave no finish reason" in f"{attempt.failure.engine_text} {setup.records[0].error}"

    run(test)


@pytest.mark.parametrize("name", ["openai", "ollama", "responses"])
def test_a_stream_without_the_field_for_reasons_is_whole(name: str) -> None:
    text = TEXT.replace(b',"finish_reason":null', b"")

    async def test() -> None:
        script = answers(chunked(text, USAGE, DONE, more=EVENTS))
        async with RawServer(script) as server, a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup:
            client = await answered(setup, name)
            assert client.is_whole and setup.outcomes == [Outcome.COMPLETED]

    run(test)


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama", "responses"])
@pytest.mark.parametrize(
    "script",
    [
        answers(chunked(TEXT, STOP, USAGE[:40], more=EVENTS)),
        breaks_off(chunked(TEXT, STOP, more=EVENTS), len(chunked(TEXT, STOP, more=EVENTS)) - 5),
        breaks_off(chunked(TEXT, STOP, more=EVENTS), len(chunked(TEXT, STOP, more=EVENTS)) - 5, reset=True),
        answers(chunked(TEXT, STOP, DONE[:9], more=EVENTS)),
    ],
    ids=["half a usage", "cut off", "reset", "half a terminator"],
)
def test_an_answer_that_lacks_only_its_terminator_is_whole(name: str, script: Script) -> None:
    async def test() -> None:
        async with RawServer(script) as server, a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup:
            client = await answered(setup, name)
            assert client.is_whole and setup.outcomes == [Outcome.COMPLETED]
            assert ENDS[name] in client.answer

    run(test)


# --- an answer that repeats itself ---


def repeating(name: str, count: int = 31) -> list[bytes]:
    """The lines of Ollama, which stops such an answer without its last line."""
    part = {"response": " word"} if name in ("completions", "generate") else {"message": {"content": " word"}}
    return [json.dumps({"model": "m", "created_at": "t", **part, "done": False}).encode() + b"\n"] * count


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "other") for name in CLIENTS), ("ollama", "ollama"), ("generate", "ollama")]
)
def test_a_repeating_stream_that_ollama_stopped_is_whole(name: str, kind: str) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(chunked(*repeating(name)))) as server,
            RawServer(answers()) as unused,
            a_relay_setup({"alpha": server.url, "beta": unused.url}, kind=kind) as setup,
        ):
            client = await answered(setup, name)
            assert client.is_whole and ENDS[name] in client.answer and client.answer.count(b"word") >= 31
            assert b"repeated itself" in client.answer
            assert not re.search(rb'"(prompt_eval_count|prompt_tokens|input_tokens)": ?0\b', client.answer)
            (record,) = setup.records
            assert (record.outcome, record.counters.completion_tokens) == (Outcome.COMPLETED, 31)
            assert not unused.requests

    run(test)


def test_a_repeating_stream_of_events_is_whole() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(chunked(*[TEXT] * 31, more=EVENTS))) as server,
            a_relay_setup({"alpha": server.url}) as setup,
        ):
            client = await answered(setup, "openai")
            assert client.is_whole and client.answer.endswith(DONE) and b'"finish_reason":"stop"' in client.answer
            assert setup.outcomes == [Outcome.COMPLETED]

    run(test)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_repeating_document_that_ollama_stopped_is_whole(name: str) -> None:
    part = b'"response":"' if name in ("completions", "generate") else b'"message":{"role":"assistant","content":"'
    text = b'{"model":"m","created_at":"t",' + part + b" word" * 40 + (b'"}' if b"role" in part else b'"')

    async def test() -> None:
        async with (
            RawServer(answers(whole(text + b',"done":false}'))) as server,
            a_relay_setup({"alpha": server.url}, kind="other") as setup,
        ):
            client = await answered(setup, name, stream=False)
            assert client.status == 200 and client.answer.count(b"word") == 40
            assert setup.outcomes == [Outcome.COMPLETED]

    run(test)


@pytest.mark.parametrize(
    ("kind", "count", "is_cut"), [("lmstudio", 31, False), ("ollama", 29, False), ("ollama", 31, True)]
)
def test_another_stream_without_its_end_is_not_whole(kind: str, count: int, is_cut: bool) -> None:
    data = chunked(*[TEXT] * count, more=EVENTS)

    async def test() -> None:
        async with (
            RawServer(breaks_off(data, len(data) - 5) if is_cut else answers(data)) as server,
            a_relay_setup({"alpha": server.url}, kind=kind) as setup,
        ):
            client = await answered(setup, "openai")
            assert not client.is_whole and setup.outcomes == [Outcome.FAILED_MIDSTREAM]

    run(test)


# --- the blank line of an event ---


def cut_after(*events: bytes) -> Script:
    """A stream that is reset after the lines of its last event, whose blank line is missing."""
    return breaks_off(chunked(*events[:-1], events[-1][:-1], more=EVENTS), len(chunked(*events, more=EVENTS)) - 8, True)


def test_an_event_that_lacks_its_blank_line_counts_as_received() -> None:
    """The client reads the event as soon as anything follows it: another node must not send it again."""

    async def test() -> None:
        rest = answers(chunked(STOP, DONE, more=EVENTS))
        async with (
            RawServer(cut_after(TEXT, TEXT)) as bad,
            RawServer(rest) as good,
            a_relay_setup({"alpha": bad.url, "beta": good.url}, kind="llamacpp") as setup,
        ):
            client = await answered(setup, "openai")
            assert client.is_whole and client.answer.startswith(TEXT + TEXT)
            assert b'{"role":"assistant","content":"HiHi"}' in good.requests[-1]

    run(test)


def test_the_last_event_of_a_lost_stream_has_its_blank_line() -> None:
    async def test() -> None:
        async with RawServer(cut_after(TEXT, STOP, DONE)) as server, a_relay_setup({"alpha": server.url}) as setup:
            client = await answered(setup, "openai")
            assert client.is_whole and client.answer == TEXT + STOP + DONE

    run(test)


# --- errors with status 200 ---

NO_FIT = "The number of tokens to keep from the initial prompt is greater than the context length."
ERRORS = {
    "a document": b'{"error":"%s"}',
    "a document with details": b'{\n "error": {"message": "%s", "type": "invalid_request_error"}\n}\n',
    "an event": b'event: error\ndata: {"error":{"message":"%s"}}\n\n',
    "an event without a space": b'event:error\ndata:{"error":{"message":"%s"}}\n\n',
    "data": b'data: {"error": {"message": "%s", "code": 400}}\n\ndata: [DONE]\n\n',
    "an older error": b'data: {"object": "error", "message": "%s", "type": "BadRequestError", "code": 400}\n\n',
    "a field": b'error: {"code":400,"message":"%s","type":"invalid_request_error"}\n\n',
}


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("form", ERRORS)
def test_an_error_in_the_request_with_status_200_is_a_client_error(name: str, form: str) -> None:
    """It is not retried on another node, and the node is not to blame."""
    body = ERRORS[form] % NO_FIT.encode()

    async def test() -> None:
        async with (
            RawServer(answers(chunked(body[:9], body[9:14], body[14:], more=EVENTS))) as server,
            RawServer(answers(chunked(TEXT, STOP, DONE, more=EVENTS))) as other,
            a_relay_setup({"alpha": server.url, "beta": other.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name)
            assert client.status == 400 and as_dialect(name, client) == NO_FIT
            assert setup.outcomes == [Outcome.FAILED] and not other.requests
            attempt = setup.records[0].attempt
            assert attempt is None or attempt.failure is None

    run(test)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("form", ["a document", "a document with details"])
def test_an_error_document_without_streaming_is_a_client_error(name: str, form: str) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(whole(ERRORS[form] % NO_FIT.encode()))) as server,
            a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name, stream=False)
            assert client.status == 400 and as_dialect(name, client) == NO_FIT

    run(test)


def test_embeddings_have_the_error_of_the_engine_too() -> None:
    async def test() -> None:
        async with (
            RawServer(answers(whole(b'{"error":"no embedding model is selected; unknown model"}'))) as server,
            a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup,
        ):
            for dialect, path in ((OPENAI, "/v1/embeddings"), (OLLAMA, "/api/embed")):
                client = await setup.answered(path, dialect=dialect, input="a")
                assert client.status == 404 and b"no embedding model" in client.answer

    run(test)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_fault_of_the_engine_with_status_200_is_retried_on_another_node(name: str) -> None:
    crash = b'event: error\ndata: {"error":{"message":"The model has crashed."}}\n\n'
    good = TEXT + STOP + DONE
    if name == "completions":
        good = good.replace(b'"delta":{"content":"Hi"}', b'"text":"Hi"').replace(b'"delta":{}', b'"text":""')

    async def test() -> None:
        async with (
            RawServer(answers(chunked(crash, more=EVENTS))) as server,
            RawServer(answers(chunked(good, more=EVENTS))) as other,
            a_relay_setup({"alpha": server.url, "beta": other.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name)
            assert client.is_whole and b"Hi" in client.answer
            failed = setup.records[0].attempt
            assert (
                failed is not None and failed.failure is not None and failed.failure.kind is FailureKind.MODEL_CRASHED
            )

    run(test)


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama", "responses"])
@pytest.mark.parametrize("form", ["an event", "data", "an older error", "a field"])
def test_an_error_in_the_middle_reaches_the_client_in_its_format(name: str, form: str) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(chunked(TEXT, ERRORS[form] % NO_FIT.encode(), more=EVENTS))) as server,
            RawServer(answers(chunked(TEXT, STOP, DONE, more=EVENTS))) as other,
            a_relay_setup({"alpha": server.url, "beta": other.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name)
            assert not client.is_whole and client.last is not None and NO_FIT.encode() in client.last
            assert client.last.count(b"data:") == (0 if name == "ollama" else 1) and not other.requests

    run(test)


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama"])
def test_chunks_with_an_empty_error_are_no_errors(name: str) -> None:
    chunks = [part.replace(b'{"choices"', b'{"error":null,"choices"') for part in (TEXT, STOP, USAGE)]

    async def test() -> None:
        async with (
            RawServer(answers(chunked(*chunks, DONE, more=EVENTS))) as server,
            a_relay_setup({"alpha": server.url}, kind="lmstudio") as setup,
        ):
            client = await answered(setup, name)
            assert client.is_whole and b"Hi" in client.answer and setup.outcomes == [Outcome.COMPLETED]

    run(test)


# --- error answers in another format ---


@pytest.mark.parametrize(
    ("name", "kind", "status", "error", "sent"),
    [
        ("anthropic", "llamacpp", "400 Bad Request", b'{"error":{"code":400,"message":"no","type":"x"}}', 400),
        ("anthropic", "llamacpp", "500 Error", b'{"error":{"code":500,"message":"no: not supported","type":"x"}}', 400),
        ("anthropic", "llamacpp", "501 Error", b'{"error":{"code":501,"message":"no","type":"not_supported"}}', 400),
        ("openai", "openai", "422 Error", b'{"detail":[{"loc":["body"],"msg":"no"}]}', 422),
        (
            "openai",
            "openai",
            "400 Error",
            b'{"object":"error","message":"no","type":"BadRequestError","code":400}',
            400,
        ),
        ("openai", "lmstudio", "400 Error", b'{"error":"no"}', 400),
        ("openai", "openai", "413 Error", b"no", 413),
        ("ollama", "ollama", "400 Error", b'{"error":{"message":"no"}}', 400),
        ("openai", "openai", "400 Error", b'{"error":{"message":"no","type":{"name":"E"},"code":[1]}}', 400),
        ("anthropic", "vllm", "400 Error", b'{"type":"error","error":{"message":"no","type":["E"]}}', 400),
    ],
)
def test_an_error_answer_gets_the_format_of_the_dialect(
    name: str, kind: str, status: str, error: bytes, sent: int
) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(whole(error, status))) as server,
            a_relay_setup({"alpha": server.url}, kind=kind) as setup,
        ):
            client = await answered(setup, name)
            assert client.status == sent and as_dialect(name, client).startswith("no")

    run(test)


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("anthropic", "llamacpp", b'{"type": "error","error":{"type":"invalid_request_error","message":"no"},"x":1}'),
        ("openai", "llamacpp", b'{"error": {"code":400,"message":"no","type":"x","n_ctx":4096}}'),
        ("openai", "ollama", b'{"error":{"message":"no","type":"x","param":null,"code":null}}\n'),
        ("ollama", "ollama", b'{"error": "no"}'),
    ],
)
def test_an_error_answer_in_the_format_of_the_dialect_stays_as_it_is(name: str, kind: str, error: bytes) -> None:
    async def test() -> None:
        async with (
            RawServer(answers(whole(error, "400 Bad Request"))) as server,
            a_relay_setup({"alpha": server.url}, kind=kind) as setup,
        ):
            client = await answered(setup, name)
            assert (client.status, client.answer) == (400, error)

    run(test)


def test_a_document_over_the_limit_is_passed_on() -> None:
    """An answer to a streaming request that is not a stream is stored only up to the size of a line."""

    class Watcher:
        def feed(self, chunk: bytes) -> None: ...
        def has_begun(self, lines: bytes) -> bool:
            return forms.LINES.has_begun(lines)

        def end(self) -> None: ...
        def end_without_terminator(self) -> None: ...

    passed = PassThrough(Watcher(), streams=True, takes_events=True)
    assert passed.feed(b"{" + b" " * 100) == b""
    assert len(passed.feed(b"x" * (1 << 20))) > 1 << 20


# --- failures in every spelling ---


@pytest.mark.parametrize(
    ("name", "beginning", "spelling"),
    [
        pytest.param(name, beginning, spelling, id=f"{name}: {spelling.source}")
        for name, (beginning, spellings) in engine_failures.EVERY_STREAM.items()
        for spelling in spellings
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_failure_in_every_spelling_ends_no_answer_as_whole(
    name: str, beginning: bytes, spelling: engine_failures.Spelling, size: int
) -> None:
    dialect, path, body = CLIENTS[name]
    route = next(route for route in dialect.routes if route.path == path)
    request = dialect.parse(route, json.dumps({"model": "m", "stream": True, **body}).encode())
    passed = PassThrough(dialect.watcher(request), streams=True, takes_events=name not in ("ollama", "generate"))
    stream = beginning + spelling.failure + spelling.after
    sent = b"".join(passed.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    sent += passed.end(b"")
    assert passed.has_failed or passed.counters() is None
    assert b"Once" in sent
    assert not any(end in sent for end in (b"[DONE]", b'"message_stop"', b'"done":true', b'"response.completed"'))
