"""WebSocket frames as a server reads and writes them (RFC 6455), text only. Knows no connection and no meaning.

Small on purpose: no extension is offered, a message from a client is a short order (`MESSAGE_MAX_BYTES`), and what goes to
clients is not masked, so that one message is made into bytes once for all of them.
"""

from __future__ import annotations

import base64
import hashlib

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3: proves that the server understood the handshake."""
KEY_BYTES = 16
MESSAGE_MAX_BYTES = 4096
"""Longest message from a client, in all its fragments."""
CONTROL_MAX_BYTES = 125
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, NOT_UTF8, TOO_BIG = 1000, 1001, 1002, 1003, 1007, 1009
_FIN, _MASKED, _LENGTH_2, _LENGTH_8 = 0x80, 0x80, 126, 127


class Broken(Exception):
    """The client broke the protocol; `code` says how, in a close frame."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def is_key(key: bytes) -> bool:
    """Whether this is a Sec-WebSocket-Key: 16 bytes in base64."""
    try:
        return len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except ValueError:
        return False


def accept(key: bytes) -> bytes:
    """What Sec-WebSocket-Accept must say to it."""
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame from the server."""
    length = len(payload)
    if length < _LENGTH_2:
        return bytes((_FIN | opcode, length)) + payload
    if length < 1 << 16:
        return bytes((_FIN | opcode, _LENGTH_2)) + length.to_bytes(2, "big") + payload
    return bytes((_FIN | opcode, _LENGTH_8)) + length.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[: CONTROL_MAX_BYTES - 2])


class Frames:
    """Bytes of one client in, its messages out: (opcode, payload) with TEXT, CLOSE, PING or PONG."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._message: bytearray | None = None

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What has become whole. Raises `Broken`; then nothing more may be fed."""
        self._bytes += data
        found: list[tuple[int, bytes]] = []
        while (one := self._next()) is not None:
            opcode, is_last, payload = one
            if opcode >= CLOSE:
                found.append((opcode, payload))
            elif (whole := self._joined(opcode, is_last, payload)) is not None:
                found.append((TEXT, whole))
        return found

    def _next(self) -> tuple[int, bool, bytes] | None:
        """The next frame, checked; None while it is not whole."""
        have = self._bytes
        if len(have) < 2:
            return None
        first, second = have[0], have[1]
        opcode, length, start = first & 0x0F, second & 0x7F, 2
        if first & 0x70 or not second & _MASKED:
            raise Broken(PROTOCOL_ERROR, "reserved bits are set, or a frame is not masked")
        if length >= _LENGTH_2:
            width = 2 if length == _LENGTH_2 else 8
            if len(have) < 2 + width:
                return None
            length, start = int.from_bytes(have[2 : 2 + width], "big"), 2 + width
        _check(opcode, bool(first & _FIN), length)
        stop = start + 4 + length
        if len(have) < stop:
            return None
        mask, payload = bytes(have[start : start + 4]), bytes(have[start + 4 : stop])
        del have[:stop]
        return opcode, bool(first & _FIN), _unmasked(payload, mask)

    def _joined(self, opcode: int, is_last: bool, payload: bytes) -> bytes | None:
        """The message that this fragment completes."""
        if (opcode == CONTINUATION) is (self._message is None):
            raise Broken(PROTOCOL_ERROR, "a fragment is out of order")
        message = self._message = bytearray() if self._message is None else self._message
        message += payload
        if len(message) > MESSAGE_MAX_BYTES:
            raise Broken(TOO_BIG, f"a message is over {MESSAGE_MAX_BYTES} bytes")
        if not is_last:
            return None
        self._message = None
        try:
            message.decode()
        except UnicodeDecodeError as error:
            raise Broken(NOT_UTF8, "a text is not UTF-8") from error
        return bytes(message)


def _check(opcode: int, is_last: bool, length: int) -> None:
    if opcode == BINARY:
        raise Broken(UNSUPPORTED, "only text is understood here")
    if opcode not in (CONTINUATION, TEXT, CLOSE, PING, PONG):
        raise Broken(PROTOCOL_ERROR, "an unknown kind of frame")
    if opcode >= CLOSE and (not is_last or length > CONTROL_MAX_BYTES):
        raise Broken(PROTOCOL_ERROR, "a control frame is in parts or too long")
    if length > MESSAGE_MAX_BYTES:
        raise Broken(TOO_BIG, f"a message is over {MESSAGE_MAX_BYTES} bytes")


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")
