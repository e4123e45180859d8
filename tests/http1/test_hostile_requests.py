"""Tests requests that two servers might parse differently: each has one result here, in any split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_fixtures import GET, Memory, a_memory, echo, replies

OK = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(target: bytes = b"/a", *lines: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return (
        method
        + b" "
        + target
        + b" "
        + version
        + b"\r\n"
        + b"".join(line + b"\r\n" for line in lines or (b"Host: x",))
        + b"\r\n"
    )


CHUNKED = b"Transfer-Encoding: chunked"

# name: (bytes, statuses in order, requests that were passed on)
REFUSED: dict[str, tuple[bytes, int]] = {
    "length beside chunked": (post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"), 400),
    "chunked beside length": (post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
    "length twice, equal": (post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    "length twice, different": (post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), 400),
    "length twice in one line": (post(b"Content-Length: 5, 5", body=b"hello"), 400),
    "length with plus": (post(b"Content-Length: +5", body=b"hello"), 400),
    "length negative": (post(b"Content-Length: -1", body=b"hello"), 400),
    "length in hex": (post(b"Content-Length: 0x5", body=b"hello"), 400),
    "length with junk": (post(b"Content-Length: 5a", body=b"hello"), 400),
    "length with inner space": (post(b"Content-Length: 5 5", body=b"hello"), 400),
    "length empty": (post(b"Content-Length:", body=b"hello"), 400),
    "length as float": (post(b"Content-Length: 5.0", body=b"hello"), 400),
    "length over 64 bit": (post(b"Content-Length: 99999999999999999999999", body=b"hello"), 400),
    "length over the limit": (post(b"Content-Length: 99999999999", body=b"hello"), 413),
    "length with underscore digits": (post(b"Content-Length: 1_0", body=b"hello"), 400),
    "coding twice": (post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400),
    "coding listed twice": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    "coding identity": (post(b"Transfer-Encoding: identity", body=b"hello"), 400),
    "coding gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "coding chunked, identity": (post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"), 400),
    "coding misspelled": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    "coding quoted": (post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400),
    "coding with parameter": (post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), 400),
    "coding with vertical tab": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "coding empty": (post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), 400),
    "coding in HTTP/1.0": (b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding with space before colon": (post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    "coding with tab before colon": (post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"), 400),
    "length with space before colon": (post(b"Content-Length : 5", body=b"hello"), 400),
    "folded header": (post(b"X-A: 1\r\n 2"), 400),
    "folded coding": (post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), 400),
    "folded with tab": (post(b"X-A: 1\r\n\t2"), 400),
    "first header begins with space": (b"GET /a HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "bare LF everywhere": (b"GET /a HTTP/1.1\nHost: x\n\n", 400),
    "bare LF after the request line": (b"GET /a HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare LF between headers": (b"GET /a HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n", 400),
    "bare LF hides a header": (post(b"X-A: b\nTransfer-Encoding: chunked"), 400),
    "empty line by LF only": (b"GET /a HTTP/1.1\r\nHost: x\r\n\n", 400),
    "bare CR in a value": (b"GET /a HTTP/1.1\r\nHost: x\r\nX-A: b\rc\r\n\r\n", 400),
    "bare CR ends a header": (b"GET /a HTTP/1.1\r\nHost: x\rX-A: b\r\n\r\n", 400),
    "CR CR LF": (b"GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n", 400),
    "NUL in a value": (post(b"X-A: b\0c"), 400),
    "NUL in a name": (post(b"X\0A: b"), 400),
    "NUL in the target": (get(b"/a\0b"), 400),
    "DEL in a value": (post(b"X-A: b\x7fc"), 400),
    "escape in a value": (post(b"X-A: \x1b[31m"), 400),
    "header without a name": (post(b": b"), 400),
    "header without a colon": (post(b"X-A"), 400),
    "header name with brackets": (post(b"X[A]: b"), 400),
    "header name beyond ASCII": (post("X-É: b".encode()), 400),
    "Host missing": (b"GET /a HTTP/1.1\r\nX-A: b\r\n\r\n", 400),
    "Host twice": (get(b"/a", b"Host: x", b"Host: x"), 400),
    "Host twice, different": (get(b"/a", b"Host: x", b"Host: y"), 400),
    "Host empty": (get(b"/a", b"Host:"), 400),
    "Host lists two": (get(b"/a", b"Host: x, y"), 400),
    "Host with a path": (get(b"/a", b"Host: x/y"), 400),
    "Host with user": (get(b"/a", b"Host: me@x"), 400),
    "Host with a space": (get(b"/a", b"Host: x y"), 400),
    "Host with a bad port": (get(b"/a", b"Host: x:80a"), 400),
    "target names another host": (get(b"http://evil/a"), 400),
    "target with user": (get(b"http://me@x/a"), 400),
    "target with another scheme": (get(b"ftp://x/a"), 400),
    "target without slash": (get(b"a"), 400),
    "target with a fragment": (get(b"/a#b"), 400),
    "target with a backslash": (get(b"/a\\b"), 400),
    "target with quotes": (get(b'/a"b'), 400),
    "target with angle brackets": (get(b"/a?<script>"), 400),
    "target beyond ASCII": (get("/é".encode()), 400),
    "target with a half escape": (get(b"/a%2"), 400),
    "target with a bad escape": (get(b"/a%zz"), 400),
    "target hides NUL": (get(b"/a%00"), 400),
    "target hides a line break": (get(b"/a%0d%0aX-A:%20b"), 400),
    "target is not UTF-8": (get(b"/a%ff"), 400),
    "star for GET": (get(b"*"), 400),
    "method in lower case": (get(method=b"get"), 400),
    "method with brackets": (get(method=b"G[T"), 400),
    "method empty": (b" /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "method unknown": (get(method=b"BREW"), 501),
    "CONNECT": (get(b"x:443", method=b"CONNECT"), 501),
    "TRACE": (get(method=b"TRACE"), 501),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "version 1.2": (get(version=b"HTTP/1.2"), 505),
    "version 3.0": (get(version=b"HTTP/3.0"), 505),
    "version in lower case": (get(version=b"http/1.1"), 400),
    "version with two digits": (get(version=b"HTTP/1.10"), 400),
    "version missing": (b"GET /a\r\nHost: x\r\n\r\n", 400),
    "version of another protocol": (get(version=b"ICE/1.0"), 400),
    "two spaces before the target": (b"GET  /a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two spaces after the target": (b"GET /a  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tab in the request line": (b"GET\t/a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space after the version": (b"GET /a HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two empty lines first": (b"\r\n\r\n" + OK, 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "another expectation": (post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello"), 417),
    "Connection names a framing header": (
        post(b"Connection: close, content-length", b"Content-Length: 5", body=b"hello"),
        400,
    ),
    "chunk extension without a name": (post(CHUNKED, body=b"5;\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk extension that hides a line": (post(CHUNKED, body=b"5;a\nhello\r\n0\r\n\r\n"), 400),
    "trailer that hides a line": (post(CHUNKED, body=b"0\r\nX-A: b\nGET /b HTTP/1.1\r\n\r\n"), 400),
    "trailer with a space before the colon": (post(CHUNKED, body=b"0\r\nX-A : b\r\n\r\n"), 400),
    "trailing coding": (post(CHUNKED, body=b"0\r\ntransfer-encoding: chunked\r\n\r\n"), 400),
    "trailing length": (post(CHUNKED, body=b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "chunk size in words": (post(CHUNKED, body=b"five\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with 0x": (post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with plus": (post(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size negative": (post(CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with spaces": (post(CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size led by a space": (post(CHUNKED, body=b" 5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size empty": (post(CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size over 32 bit": (post(CHUNKED, body=b"100000005\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size over the limit": (post(CHUNKED, body=b"ffffffff\r\nhello\r\n0\r\n\r\n"), 413),
    "chunk size ended by LF": (post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"), 400),
    "chunk ended by LF": (post(CHUNKED, body=b"5\r\nhello\n0\r\n\r\n"), 400),
    "chunk longer than its size": (post(CHUNKED, body=b"5\r\nhelloo\r\n0\r\n\r\n"), 400),
    "chunk shorter than its size": (post(CHUNKED, body=b"6\r\nhello\r\n0\r\n\r\n"), 400),
    "last chunk ended by LF": (post(CHUNKED, body=b"0\n\n"), 400),
    "junk after the last chunk": (post(CHUNKED, body=b"0\r\nGET /b HTTP/1.1\r\n\r\n"), 400),
}

# name: (bytes, method, path, query and body of each parsed request)
UNDERSTOOD: dict[str, tuple[bytes, list[list[str]]]] = {
    "plain": (GET, [["GET", "/a", "", ""]]),
    "length": (post(b"Content-Length: 5", body=b"hello"), [["POST", "/a", "", "hello"]]),
    "length with white space around": (post(b"Content-Length:\t 5 \t", body=b"hello"), [["POST", "/a", "", "hello"]]),
    "length zero": (post(b"Content-Length: 0"), [["POST", "/a", "", ""]]),
    "no length": (post(), [["POST", "/a", "", ""]]),
    "body of a GET": (
        get(b"/a", b"Host: x", b"Content-Length: 2") + b"hi" + OK,
        [["GET", "/a", "", "hi"], ["GET", "/next", "", ""]],
    ),
    "body that looks like a request": (
        post(b"Content-Length: %d" % len(OK), body=OK),
        [["POST", "/a", "", OK.decode()]],
    ),
    "chunked": (post(CHUNKED, body=b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"), [["POST", "/a", "", "hello!"]]),
    "chunked in capitals": (
        post(b"transfer-encoding: CHUNKED", body=b"A\r\n0123456789\r\n0\r\n\r\n"),
        [["POST", "/a", "", "0123456789"]],
    ),
    "chunked, led by zeros": (post(CHUNKED, body=b"0005\r\nhello\r\n000\r\n\r\n"), [["POST", "/a", "", "hello"]]),
    "chunked, empty": (post(CHUNKED, body=b"0\r\n\r\n") + OK, [["POST", "/a", "", ""], ["GET", "/next", "", ""]]),
    "chunked, with extensions and trailers": (
        post(CHUNKED, body=b'5;a=b ;c="d;e"\r\nhello\r\n0;f\r\nX-A: b\r\nX-C:\r\n\r\n') + OK,
        [["POST", "/a", "", "hello"], ["GET", "/next", "", ""]],
    ),
    "chunked, with line breaks inside": (
        post(CHUNKED, body=b"4\r\n\r\n\r\n\r\n0\r\n\r\n") + OK,
        [["POST", "/a", "", "\r\n\r\n"], ["GET", "/next", "", ""]],
    ),
    "one empty line first": (b"\r\n" + GET, [["GET", "/a", "", ""]]),
    "one empty line between": (GET + b"\r\n" + OK, [["GET", "/a", "", ""], ["GET", "/next", "", ""]]),
    "absolute target": (get(b"http://x/a?b=c"), [["GET", "/a", "b=c", ""]]),
    "absolute target without a path": (get(b"HTTP://X"), [["GET", "/", "", ""]]),
    "absolute target with a query alone": (get(b"http://x?b"), [["GET", "/", "b", ""]]),
    "star for OPTIONS": (get(b"*", method=b"OPTIONS"), [["OPTIONS", "*", "", ""]]),
    "OPTIONS": (get(method=b"OPTIONS"), [["OPTIONS", "/a", "", ""]]),
    "DELETE with a body": (
        get(b"/a", b"Host: x", b"Content-Length: 2", method=b"DELETE") + b"hi",
        [["DELETE", "/a", "", "hi"]],
    ),
    "escaped slash": (get(b"/v1/models/a%2Fb"), [["GET", "/v1/models/a/b", "", ""]]),
    "escaped UTF-8": (get(b"/%E4%BD%A0"), [["GET", "/你", "", ""]]),
    "query kept as it is": (get(b"/a?b=%zz".replace(b"%zz", b"%2F{}|^`[]")), [["GET", "/a", "b=%2F{}|^`[]", ""]]),
    "Host with a port": (get(b"/a", b"Host: herd.local:11435"), [["GET", "/a", "", ""]]),
    "Host as IPv6": (get(b"/a", b"Host: [::1]:11435"), [["GET", "/a", "", ""]]),
    "Host with an underscore": (get(b"/a", b"Host: my_herd"), [["GET", "/a", "", ""]]),
    "HTTP/1.0 without Host": (b"GET /a HTTP/1.0\r\n\r\n", [["GET", "/a", "", ""]]),
    "an offer of h2c": (
        post(
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AA",
            b"Content-Length: 5",
            body=b"hello",
        )
        + OK,
        [["POST", "/a", "", "hello"], ["GET", "/next", "", ""]],
    ),
    "text beyond ASCII in a value": (get(b"/a", b"Host: x", "X-A: é".encode()), [["GET", "/a", "", ""]]),
    "value empty": (get(b"/a", b"Host: x", b"X-A:"), [["GET", "/a", "", ""]]),
    "same header twice": (get(b"/a", b"Host: x", b"X-A: 1", b"X-A: 2"), [["GET", "/a", "", ""]]),
    "TE: trailers": (get(b"/a", b"Host: x", b"TE: trailers"), [["GET", "/a", "", ""]]),
    "a look-alike of a framing header": (
        post(b"Content_Length: 5", b"X-Transfer-Encoding: chunked") + OK,
        [["POST", "/a", "", ""], ["GET", "/next", "", ""]],
    ),
    "three at once": (
        GET + post(b"Content-Length: 2", body=b"hi") + OK,
        [["GET", "/a", "", ""], ["POST", "/a", "", "hi"], ["GET", "/next", "", ""]],
    ),
}


def answers(data: bytes, pieces: list[bytes]) -> tuple[Memory, bytes, bool]:
    memory = a_memory(echo)
    connection, transport = memory.connect()
    for piece in pieces:
        if not transport.is_closed:
            connection.data_received(piece)
    assert b"".join(pieces) == data
    return memory, bytes(transport.sent), transport.is_ended


@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_request_is_refused_and_the_connection_closed(name: str) -> None:
    """No part of it is passed on, and nothing after it: the following bytes could be its body."""
    data, status = REFUSED[name]
    for pieces in (
        [data + OK],
        *[[data[:i], data[i:] + OK] for i in range(1, len(data))],
        [*map(bytes, zip(data)), OK],
    ):
        memory, sent, is_ended = answers(data + OK, pieces)
        (reply,) = replies(sent)
        assert (reply.status, is_ended, memory.exchanges) == (status, True, []), pieces
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_valid_request_is_parsed_in_any_split(name: str) -> None:
    data, expected = UNDERSTOOD[name]
    for pieces in ([data], *[[data[:i], data[i:]] for i in range(1, len(data))], [*map(bytes, zip(data))]):
        memory, sent, _ = answers(data, pieces)
        assert [json.loads(reply.body) for reply in replies(sent)] == expected, pieces
        assert len(memory.exchanges) == len(expected)


def test_the_corpus_has_over_a_hundred_requests() -> None:
    assert len(REFUSED) > 100


def test_the_path_of_a_refused_request_selects_the_error_format() -> None:
    data = post(b"Transfer-Encoding: identity", body=b"hello")
    _, sent, _ = answers(data, [data])
    assert json.loads(replies(sent)[0].body) == {"path": "/a", "code": "malformed_request"}


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\nHost: x\n\n", b"GET / HTTP/1.1\r\nHost: x\rX", b"GET /\0", b"\x16\x03\x01\x02\x00", b"{", b" "],
)
def test_bytes_that_cannot_become_a_request_are_refused_at_once(data: bytes) -> None:
    """The end of the head is missing, but the refusal does not wait for the time limit."""
    for pieces in ([data], [*map(bytes, zip(data))]):
        _, sent, is_ended = answers(data, pieces)
        assert [reply.status for reply in replies(sent)] == [400] and is_ended


def test_a_refusal_of_head_has_no_body() -> None:
    data = get(b"/a", b"Host: x", b"Host: y", method=b"HEAD")
    _, sent, _ = answers(data, [data])
    (reply,) = replies(sent, "H")
    assert reply.status == 400 and sent.endswith(b"\r\n\r\n")


FRAGMENTS = st.sampled_from(
    [
        b"GET",
        b"POST",
        b" ",
        b"/a",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"abc",
        b"Transfer-Encoding: chunked\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        GET,
        b"\0",
        b"\xff",
        b":",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=40)), max_size=20), st.booleans())
def test_no_bytes_raise_or_hang_the_connection(pieces: list[bytes], is_late: bool) -> None:
    """Every input ends with an answer, a refusal, or the time limits; the result is the same in any split."""
    waiting: list[object] = []
    memory = a_memory((lambda exchange: waiting.append(exchange)) if is_late else echo)
    connection, transport = memory.connect()
    for piece in pieces:
        if piece and not transport.is_closed:
            connection.data_received(piece)
        while waiting:
            echo(waiting.pop())  # type: ignore[arg-type]
    for _ in range(4):
        memory.loop.run_soon()
        memory.pass_time(80.0)
    assert transport.is_ended
    whole = a_memory(echo)
    connection, _ = whole.connect()
    connection.data_received(b"".join(pieces))
    whole.loop.run_soon()
    assert [e.body for e in whole.exchanges] == [e.body for e in memory.exchanges]
