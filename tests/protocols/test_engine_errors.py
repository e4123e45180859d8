"""Errors of all servers are recognized, whatever their format, and nothing else is taken for an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.protocols.engine_errors import (
    ERROR_MAX_CHARACTERS,
    ErrorSearch,
    error_text,
    is_incomplete,
    read_error,
    split_at_error,
)


@pytest.mark.parametrize(
    ("lines", "before"),
    [
        (b'{"model":"m","response":"an error"}\n', None),
        (b'{"model":"m","response":"a"}\n{"error":"the runner died"}\n', b'{"model":"m","response":"a"}\n'),
        (b'data: {"choices":[]}\n\ndata: {"error":{"message":"x"}}\n\n', b'data: {"choices":[]}\n\n'),
        (b'event: error\ndata: {"type":"error"}\n\n', b""),
        (b'data:{ "error": {"message":"x"}}\n\n', b""),
        (b'data: {"object": "error", "message": "x", "code": 400}\n\n', b""),
        (b'data: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n', b""),
        (b'error: {"code":500,"message":"x"}\n\n', b""),
        (b'event:error\ndata: {"message":"x"}\n\n', b""),
        (b'data: {"id":"c","choices":[],"error":{"code":502,"message":"x"}}\n\n', b""),
        (b'data: {"error":null,"choices":[{"delta":{"content":"a"}}]}\n\n', None),
        (b'{"error":"","response":"a"}\n', None),
        (b'{"error":{},"response":"a"}\n', None),
        (b'{"response":"a","tool_calls":[{"function":{"name":"error"}}]}\n', None),
        (b'data: {"choices":[{"delta":{"content":"{\\"error\\":1}"}}]}\n\n', None),
    ],
)
def test_error_line_is_distinguished_from_text_about_errors(lines: bytes, before: bytes | None) -> None:
    assert split_at_error(lines) == ((lines, b"") if before is None else (before, lines[len(before) :]))


@pytest.mark.parametrize(
    ("data", "message", "status"),
    [
        (b'{"error":"model x not found"}', "model x not found", 404),
        (b'{"error":"an error was encountered while running the model: unexpected EOF"}', "unexpected EOF", 500),
        (b'{"error":{"code":400,"message":"too big","type":"exceed_context_size_error"}}', "too big", 400),
        (b'{"error":{"message":"boom","type":"server_error"}}', "boom", 500),
        (b'{"error":{"message":"slow down","type":"rate_limit_error"}}', "slow down", 429),
        (b'{"error":{"message":"Compute error."},"message":"Compute error."}', "Compute error.", 500),
        (
            b'{"error":"Unexpected endpoint or method. (POST /v1/x)"}',
            "Unexpected endpoint or method. (POST /v1/x)",
            400,
        ),
        (b'{"error":"The model has crashed without additional information. (Exit code: null)"}', "crashed", 500),
        (b'{"error":"Input validation error: inputs tokens + max_new_tokens","error_type":"validation"}', "Input", 400),
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', "Model is overloaded", 503),
        (b'{"object":"error","message":"bad","type":"BadRequestError","param":null,"code":400}', "bad", 400),
        (b'{"object":"error","message":"bad","type":"BadRequestError"}', "bad", 400),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', "busy", 503),
        (b'event: error\ndata: {"error":{"message":"No models loaded."}}\n\n', "No models loaded.", 404),
        (b'event: error\ndata: {"message":"something else"}\n\n', "something else", None),
        (b"event: error\r\ndata: plain words\r\n\r\n", "plain words", None),
        (b'event: error\ndata: {"error":\ndata: {"message":"in two lines"}}\n\n', "in two lines", None),
        (b'error: {"code":500,"message":"slot failed","type":"server_error"}\n\n', "slot failed", 500),
        (b'data: {"error":{"message":"x","type":"BadRequestError","code":400}}\n\ndata: [DONE]\n\n', "x", 400),
        (b'{"error":"{\\"error\\":{\\"code\\":400,\\"message\\":\\"inside\\"}}"}', "inside", 400),
        (b'{\n  "error": "in several lines"\n}\n', "in several lines", None),
        (b'{"error":"Model does not exist"}', "Model does not exist", 404),
        (b'{"error":{"message":"The model `a/b:c` does not exist or you have no access."}}', "a/b:c", 404),
        (b'{"error":"Model Not Exist"}', "Model Not Exist", 404),
        (b'{"error":"model x doesn\'t exist"}', "model x", 404),
        (b'{"error":"no such model: x"}', "no such model", 404),
        (b'{"error":"unknown model x"}', "unknown model", 404),
        (b'{"error":"cannot find model x"}', "cannot find", 404),
        (b'{"error":"x is not a valid model ID"}', "not a valid", 404),
        (b'{"error":"the model has a chat template that does not exist"}', "template", 400),
        (b'{"error":7}', "7", None),
        (b'{"error":[1]}', '{"error":[1]}', None),
    ],
)
def test_error_has_its_message_and_the_status_that_it_implies(data: bytes, message: str, status: int | None) -> None:
    error = read_error(data)
    assert error is not None and message in error.message and "data:" not in error.message
    assert error.status == status


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{}", b'{"error":null}', b"[1]", b'data: {"choices":[]}\n\n', b'{"message":"hello"}', b"error"]
)
def test_other_answers_report_no_error(data: bytes) -> None:
    assert read_error(data) is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"detail":"Not authenticated"}', "Not authenticated"),
        (b'{"detail":[{"loc":["body","n"],"msg":"must be 1"},{"msg":"and more"}]}', "must be 1; and more"),
        (b'{"message":"words"}', "words"),
        (b'data: {"error":{"message":"framed"}}\n\n', "framed"),
        (b"<html>502</html>", "<html>502</html>"),
        (b"\xff", "\ufffd"),
        (b"x" * 1000, "x" * ERROR_MAX_CHARACTERS),
    ],
)
def test_error_answer_has_a_text_in_every_format(body: bytes, text: str) -> None:
    assert error_text(body) == text


NOT_TEXTS = (b"7", b"-1.5", b"1e999", b"true", b"false", b"null", b"[]", b"{}", b'["E"]', b'{"name":"E"}', b"[[[]]]")
SHAPES = (
    b'{"error":{"message":"died",%b}}',
    b'{"error":"died",%b}',
    b'{"object":"error","message":"died",%b}',
    b'{"type":"error","error":{"message":"died",%b}}',
    b'data: {"error":{"message":"died",%b}}\n\n',
    b'event: error\ndata: {"message":"died",%b}\n\n',
    b'error: {"message":"died",%b}\n\n',
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [b"type", b"code", b"status", b"param", b"error_type", b"detail"])
def test_error_is_read_although_a_member_of_it_is_not_text(shape: bytes, name: bytes) -> None:
    for value in NOT_TEXTS:
        data = shape % (b'"%b":%b' % (name, value))
        error = read_error(data)
        assert error is not None and (error.message, error.status) == ("died", None), data
        assert error_text(data) == "died"


@pytest.mark.parametrize("value", NOT_TEXTS)
def test_error_without_a_readable_message_is_an_error_nevertheless(value: bytes) -> None:
    error = read_error(b'{"error":{"message":%b,"type":{"name":"E"}}}' % value)
    assert error is not None and error.message


def test_error_event_is_incomplete_until_its_blank_line() -> None:
    assert is_incomplete(b"event: error\n") and is_incomplete(b'event: error\ndata: {"error":1}\n')
    assert not is_incomplete(b'event: error\r\ndata: {"error":1}\r\n\r\n')
    assert not is_incomplete(b'data: {"error":1}\n')


@given(st.binary(max_size=200) | st.sampled_from([b"event: error\n", b"error:", b'{"error":' + b"[" * 9999]))
@settings(deadline=None)
def test_arbitrary_bytes_are_read_without_an_exception(data: bytes) -> None:
    error_text(data)
    read_error(data)
    assert b"".join(split_at_error(data)) == data


def named(kind: str, text: str) -> bytes:
    return f'event: {kind}\ndata: {{"type":"{kind}","delta":{{"text":"{text}"}}}}\n\n'.encode()


def test_a_named_event_with_another_text_is_usual() -> None:
    errors = ErrorSearch()
    assert errors.split(named("content_block_delta", "one")) == (named("content_block_delta", "one"), b"")
    assert errors.are_usual(named("content_block_delta", "another text"))
    assert not errors.are_usual(named("content_block_stop", "one"))
    assert not errors.are_usual(named("content_block_delta", "an error"))
    assert not errors.are_usual(named("content_block_delta", "one") * 2)
    assert not errors.are_usual(named("content_block_delta", "one")[:-1])


def test_nothing_is_usual_before_the_first_lines() -> None:
    assert not any(ErrorSearch().are_usual(data) for data in (b"", b"\0", b"\n", named("content_block_delta", "x")))
