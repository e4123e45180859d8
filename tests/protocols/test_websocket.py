"""Frames of RFC 6455 as a client writes them and as we answer, cut anywhere; what breaks the rules is named."""

from __future__ import annotations

from random import Random

import pytest

from fakes.websocket import client_frame
from herd.protocols import websocket
from herd.protocols.websocket import Broken, Frames


def test_the_handshake_of_the_specification_is_answered_as_it_says() -> None:
    assert websocket.accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (
        websocket.is_key(b"dGhlIHNhbXBsZSBub25jZQ==") and not websocket.is_key(b"short") and not websocket.is_key(b"")
    )


def test_the_specifications_masked_hello_is_read() -> None:
    assert Frames().feed(bytes.fromhex("818537fa213d7f9f4d5158")) == [(websocket.TEXT, b"Hello")]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 4096])
def test_messages_of_every_length_form_are_read_wherever_they_are_cut(length: int) -> None:
    text = bytes(Random(length).choices(b"abc{}", k=length))
    data = client_frame(websocket.TEXT, text) + client_frame(websocket.PING, b"?")
    for cut in {0, 1, 2, 3, 5, 9, len(data) // 2, len(data) - 1}:
        frames = Frames()
        assert frames.feed(data[:cut]) + frames.feed(data[cut:]) == [(websocket.TEXT, text), (websocket.PING, b"?")]


def test_fragments_are_joined_and_a_ping_may_come_between() -> None:
    data = (
        client_frame(websocket.TEXT, b"ab", is_last=False)
        + client_frame(websocket.PING, b"")
        + client_frame(websocket.CONTINUATION, b"c")
    )
    assert Frames().feed(data) == [(websocket.PING, b""), (websocket.TEXT, b"abc")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05Hello", websocket.PROTOCOL_ERROR),
        (client_frame(websocket.BINARY, b"x"), websocket.UNSUPPORTED),
        (client_frame(0x3, b""), websocket.PROTOCOL_ERROR),
        (client_frame(websocket.CONTINUATION, b"x"), websocket.PROTOCOL_ERROR),
        (client_frame(websocket.TEXT, b"x", is_last=False) * 2, websocket.PROTOCOL_ERROR),
        (client_frame(websocket.PING, b"x" * 126), websocket.PROTOCOL_ERROR),
        (client_frame(websocket.CLOSE, b"", is_last=False), websocket.PROTOCOL_ERROR),
        (client_frame(websocket.TEXT, b"x" * 4097)[:8], websocket.TOO_BIG),
        (b"\x81\xff" + b"\xff" * 8, websocket.TOO_BIG),
        (
            client_frame(websocket.TEXT, b"x" * 3000, is_last=False)
            + client_frame(websocket.CONTINUATION, b"x" * 3000),
            websocket.TOO_BIG,
        ),
        (client_frame(websocket.TEXT, b"\xff\xfe"), websocket.NOT_UTF8),
        (b"\xc1\x80" + b"\0" * 4, websocket.PROTOCOL_ERROR),
    ],
)
def test_what_breaks_the_rules_is_named(data: bytes, code: int) -> None:
    with pytest.raises(Broken) as broken:
        Frames().feed(data)
    assert broken.value.code == code


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_our_own_frames_have_the_shortest_length_and_no_mask(length: int) -> None:
    made = websocket.frame(websocket.TEXT, b"x" * length)
    head = 2 if length < 126 else 4 if length < 65536 else 10
    assert len(made) == head + length and made[0] == 0x81 and not made[1] & 0x80
    assert websocket.close_frame(1001, "gone") == b"\x88\x06\x03\xe9gone"
