"""Tests WebSocket frames: messages cut at any byte are read, and violations get their close code."""

from __future__ import annotations

from random import Random

import pytest
from wsproto.frame_protocol import CloseReason, Opcode

from fakes.websocket import client_frame
from herd.http1 import websocket
from herd.http1.websocket import MessageReader, ProtocolViolation


def test_the_accept_token_is_that_of_the_specifications_example() -> None:
    assert websocket.accept_token(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (
        websocket.is_valid_key(b"dGhlIHNhbXBsZSBub25jZQ==")
        and not websocket.is_valid_key(b"short")
        and not websocket.is_valid_key(b"")
    )


def test_the_specifications_masked_hello_is_read() -> None:
    assert MessageReader().feed(bytes.fromhex("818537fa213d7f9f4d5158")) == [(Opcode.TEXT, b"Hello")]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 4096])
def test_messages_with_every_length_field_are_read_wherever_they_are_cut(length: int) -> None:
    text = bytes(Random(length).choices(b"abc{}", k=length))
    data = client_frame(Opcode.TEXT, text) + client_frame(Opcode.PING, b"?")
    for cut in {0, 1, 2, 3, 5, 9, len(data) // 2, len(data) - 1}:
        reader = MessageReader()
        assert reader.feed(data[:cut]) + reader.feed(data[cut:]) == [(Opcode.TEXT, text), (Opcode.PING, b"?")]


def test_a_fragmented_message_at_the_limit_is_read_however_its_bytes_arrive() -> None:
    half = b"a" * (websocket.MESSAGE_MAX_BYTES // 2)
    data = client_frame(Opcode.TEXT, half, is_last=False) + client_frame(Opcode.CONTINUATION, half)
    for size in (1, 2, 3, 5, 7, 64):
        reader = MessageReader()
        messages = [
            message for start in range(0, len(data), size) for message in reader.feed(data[start : start + size])
        ]
        assert messages == [(Opcode.TEXT, half + half)]


def test_fragments_are_joined_even_with_a_ping_between_them() -> None:
    data = (
        client_frame(Opcode.TEXT, b"ab", is_last=False)
        + client_frame(Opcode.PING, b"")
        + client_frame(Opcode.CONTINUATION, b"c")
    )
    assert MessageReader().feed(data) == [(Opcode.PING, b""), (Opcode.TEXT, b"abc")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05Hello", CloseReason.PROTOCOL_ERROR),
        (client_frame(Opcode.BINARY, b"x"), CloseReason.UNSUPPORTED_DATA),
        (client_frame(0x3, b""), CloseReason.PROTOCOL_ERROR),
        (client_frame(Opcode.CONTINUATION, b"x"), CloseReason.PROTOCOL_ERROR),
        (client_frame(Opcode.TEXT, b"x", is_last=False) * 2, CloseReason.PROTOCOL_ERROR),
        (client_frame(Opcode.PING, b"x" * 126), CloseReason.PROTOCOL_ERROR),
        (client_frame(Opcode.CLOSE, b"", is_last=False), CloseReason.PROTOCOL_ERROR),
        (client_frame(Opcode.TEXT, b"x" * 4097)[:8], CloseReason.MESSAGE_TOO_BIG),
        (b"\x81\xff" + b"\x7f" + b"\xff" * 7, CloseReason.MESSAGE_TOO_BIG),
        (b"\x81\xff" + b"\xff" * 8, CloseReason.PROTOCOL_ERROR),
        (
            client_frame(Opcode.TEXT, b"x" * 3000, is_last=False) + client_frame(Opcode.CONTINUATION, b"x" * 3000),
            CloseReason.MESSAGE_TOO_BIG,
        ),
        (client_frame(Opcode.TEXT, b"\xff\xfe"), CloseReason.INVALID_FRAME_PAYLOAD_DATA),
        (b"\xc1\x80" + b"\0" * 4, CloseReason.PROTOCOL_ERROR),
    ],
)
def test_a_violation_has_its_close_code(data: bytes, code: int) -> None:
    with pytest.raises(ProtocolViolation) as violation:
        MessageReader().feed(data)
    assert violation.value.code == code


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_frames_of_the_server_use_the_shortest_length_field_and_no_mask(length: int) -> None:
    made = websocket.text_frame(b"x" * length)
    head = 2 if length < 126 else 4 if length < 65536 else 10
    assert len(made) == head + length and made[0] == 0x81 and not made[1] & 0x80
    assert websocket.close_frame(1001, "gone") == b"\x88\x06\x03\xe9gone"
