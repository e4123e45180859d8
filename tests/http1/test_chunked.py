"""Tests chunked bodies: parsed in any split, refused as early as possible."""

from __future__ import annotations

import pytest

from herd.errors import BadRequest, TooLarge
from herd.http1.chunked import ChunkedBody


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
        b"5;",
        b"5 ",
        b" ",
        b"x",
        b"0x",
        b"-",
        b"000000000",
        b"5\r\nhellox",
        b"5\r\nhello\n",
        b"0\r\nx",
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
