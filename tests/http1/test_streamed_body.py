"""Tests request bodies that are passed on while they arrive."""

from __future__ import annotations

import asyncio

import pytest

from herd.errors import TooLarge
from herd.http1.streamed_body import WINDOW_BYTES, StreamedBody, UploadLost


def test_pieces_are_the_body_and_the_bytes_after_it_are_returned() -> None:
    async def read() -> bytes:
        body = StreamedBody(8, 100, lambda _: None)
        assert body.feed(b"hello") == b""
        first = await body.next()
        assert not body.is_complete and body.feed(b"you, next") == b", next"
        return first + await body.next() + await body.next()

    assert asyncio.run(read()) == b"helloyou"


def test_a_chunked_body_has_a_limit_even_if_it_was_taken() -> None:
    async def read() -> bytes:
        body = StreamedBody(None, 8, lambda _: None)
        body.feed(b"5\r\nhello\r\n")
        taken = await body.next()
        with pytest.raises(TooLarge):
            body.feed(b"4\r\n")
        return taken

    assert asyncio.run(read()) == b"hello"


def test_the_client_is_not_read_while_too_much_waits() -> None:
    async def read() -> list[bool]:
        paused: list[bool] = []
        body = StreamedBody(4 * WINDOW_BYTES, 4 * WINDOW_BYTES, paused.append)
        body.feed(b"x" * WINDOW_BYTES)
        assert paused == []
        body.feed(b"x" * WINDOW_BYTES)
        assert paused == [True] and len(await body.next()) == 2 * WINDOW_BYTES
        return paused

    assert asyncio.run(read()) == [True, False]


def test_a_lost_upload_is_an_error_after_the_bytes_that_came() -> None:
    async def read() -> None:
        body = StreamedBody(8, 8, lambda _: None)
        body.feed(b"hi")
        body.lose("the client disconnected")
        assert await body.next() == b"hi"
        with pytest.raises(UploadLost, match="disconnected"):
            await body.next()
        assert body.feed(b"more") == b""

    asyncio.run(read())


def test_a_slow_client_loses_its_upload_and_a_paused_one_does_not() -> None:
    async def read() -> None:
        slow = StreamedBody(100, 100, lambda _: None)
        for now in (0.0, 10.0):
            slow.check_speed(now, 10.0, 1)
        with pytest.raises(UploadLost, match="too slowly"):
            await slow.next()
        paused = StreamedBody(4 * WINDOW_BYTES, 4 * WINDOW_BYTES, lambda _: None)
        paused.feed(b"x" * 2 * WINDOW_BYTES)
        for now in (0.0, 10.0, 20.0):
            paused.check_speed(now, 10.0, 1)
        assert await paused.next()

    asyncio.run(read())
