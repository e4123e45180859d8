"""Tests chunked bodies: parsed in any split, refused as early as possible."""

from __future__ import annotations

import pytest

from herd.errors import BadRequest, HeadersTooLarge, TooLarge
from herd.http1.chunked import EXTENSION_MAX_BYTES, EXTENSIONS_FREE_BYTES, TRAILERS_MAX_BYTES, ChunkedBody


def test_a_body_is_the_same_in_any_split() -> None:
    data = b"5\r\nhello\r\nA\r\n0123\r\n6789\r\n1\r\n!\r\n0\r\n\r\nnext"
    for first in range(len(data) - 4):
        for second in range(first, len(data) - 4):
            body = ChunkedBody(100)
            rests = [body.feed(piece) for piece in (data[:first], data[first:second], data[second:])]
            assert rests == [None, None, b"next"]
            assert body.content == b"hello0123\r\n6789!"


@pytest.mark.parametrize(
    "data",
    [
        b"5;a\n",
        b"5;a\x00",
        b"5;a\rb",
        b"5 x",
        b" ",
        b"x",
        b"0x",
        b"-",
        b"000000000",
        b"5\r\nhellox",
        b"5\r\nhello\n",
        b"0\r\nx y",
        b"0\r\n :",
        b"0\r\nx:\n",
        b"0\r\nx: a\rb",
        b"0\r\n\n",
        b"5\n",
        b"\n",
    ],
)
def test_a_malformed_chunk_is_refused_before_its_line_ends(data: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedBody(100).feed(data)
    body = ChunkedBody(100)
    with pytest.raises(BadRequest):
        for byte in data:
            body.feed(bytes([byte]))


def test_the_limit_is_the_sum_of_all_chunks() -> None:
    body = ChunkedBody(10)
    assert body.feed(b"5\r\nhello\r\n5\r\nworld\r\n") is None
    with pytest.raises(TooLarge):
        body.feed(b"1\r\n")


IGNORED = b'5;a=b;c="d;\\" e" ; f\r\nhello\r\n1 ; g = h\r\n!\r\n0;last\r\nExpires: now\r\nX-Sum:\r\n\r\nnext'


def test_extensions_and_trailers_are_ignored_in_any_split() -> None:
    for first in range(len(IGNORED) - 4):
        body = ChunkedBody(6)
        assert [body.feed(IGNORED[:first]), body.feed(IGNORED[first:])] == [None, b"next"]
        assert body.content == b"hello!"


@pytest.mark.parametrize("line", [b"5;", b"5 ", b"5;a=", b"5;=b", b'5;a="b', b"5;a b", b"5;a=b c", b'5;"a"=b', b"5;a;"])
def test_an_extension_that_breaks_the_grammar_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedBody(100).feed(line + b"\r\nhello\r\n0\r\n\r\n")


def test_extensions_have_a_limit_by_line_and_in_all() -> None:
    longest = b"1;" + b"a" * (EXTENSION_MAX_BYTES - 2)
    assert ChunkedBody(100).feed(longest + b"\r\nx\r\n0\r\n\r\n") == b""
    for ending in (b"", b"\r\n"):
        with pytest.raises(BadRequest, match=f"{EXTENSION_MAX_BYTES} bytes in a line"):
            ChunkedBody(100).feed(longest + b"a" + ending)
    body, chunk = ChunkedBody(10**6), longest + b"\r\nx\r\n"
    body.feed(chunk * (EXTENSIONS_FREE_BYTES // EXTENSION_MAX_BYTES))
    with pytest.raises(BadRequest, match=f"{EXTENSIONS_FREE_BYTES} bytes"):
        body.feed(chunk)


def test_a_long_body_may_have_more_extensions_than_a_short_one() -> None:
    signed = b"1000;chunk-signature=" + b"f" * 64 + b"\r\n" + b"x" * 4096 + b"\r\n"
    body = ChunkedBody(10**7)
    body.feed(signed * 1000)
    assert body.feed(b"0\r\n\r\n") == b"" and len(body.content) == 4096 * 1000


def test_trailers_have_a_limit() -> None:
    trailer = b"a:" + b"b" * (TRAILERS_MAX_BYTES - 2)
    assert ChunkedBody(1).feed(b"0\r\n" + trailer + b"\r\n\r\n") == b""
    for data in (trailer + b"b", trailer + b"\r\na:\r\n", b"a:b\r\n" * (TRAILERS_MAX_BYTES // 3 + 1)):
        with pytest.raises(HeadersTooLarge, match=f"over {TRAILERS_MAX_BYTES} bytes"):
            ChunkedBody(1).feed(b"0\r\n" + data)
