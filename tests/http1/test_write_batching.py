"""Tests write batching: the first write of an iteration at once, the others at its end, in order and within a limit."""

from __future__ import annotations

import asyncio
from typing import cast

from herd.http1.write_batching import WAITING_MAX_BYTES, WriteBatcher
from http_fixtures import FakeLoop, FakeTransport


def an_outbox() -> tuple[WriteBatcher, FakeLoop]:
    loop = FakeLoop()
    return WriteBatcher(cast("asyncio.AbstractEventLoop", loop)), loop


def test_the_first_write_of_an_iteration_is_sent_at_once_and_the_others_at_its_end() -> None:
    outbox, loop = an_outbox()
    first, second = FakeTransport(), FakeTransport()
    outbox.send(first, b"1")
    outbox.send(second, b"2")
    outbox.send(first, b"3")
    assert (first.sent, second.sent) == (b"1", b"")
    loop.run_soon()
    assert (first.sent, second.sent) == (b"13", b"2")


def test_each_iteration_sends_its_first_write_at_once() -> None:
    outbox, loop = an_outbox()
    transport = FakeTransport()
    for turn in (b"a", b"b"):
        outbox.send(transport, turn)
        assert transport.sent.endswith(turn)
        loop.run_soon()
    assert not loop.soon


def test_a_flush_sends_waiting_bytes_in_order() -> None:
    outbox, _ = an_outbox()
    transport = FakeTransport()
    for piece in (b"a", b"b", b"c"):
        outbox.send(transport, piece)
    outbox.flush()
    assert transport.sent == b"abc"


def test_bytes_for_a_closed_connection_are_dropped_and_others_are_sent() -> None:
    outbox, loop = an_outbox()
    closed, alive = FakeTransport(), FakeTransport()
    outbox.send(alive, b"1")
    outbox.send(closed, b"2")
    outbox.send(alive, b"3")
    closed.close()
    loop.run_soon()
    assert (closed.sent, alive.sent) == (b"", b"13")


def test_bytes_over_the_limit_are_sent_before_the_end_of_the_iteration() -> None:
    outbox, _ = an_outbox()
    transport = FakeTransport()
    outbox.send(transport, b"1")
    outbox.send(transport, b"x" * WAITING_MAX_BYTES)
    assert transport.sent == b"1"
    outbox.send(transport, b"2")
    assert len(transport.sent) == WAITING_MAX_BYTES + 2
