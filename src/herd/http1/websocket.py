"""Reads and writes WebSocket frames for a server (RFC 6455), with wsproto: text messages, ping and close.

No extension is negotiated. A client's message is a short command, so its size is limited (`MESSAGE_MAX_BYTES`). Frames
of a server are not masked, so one encoded message can be sent to all clients.
"""

from __future__ import annotations

import base64
from types import MappingProxyType

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits
from wsproto.utilities import generate_accept_token

KEY_BYTES = 16
MESSAGE_MAX_BYTES = 4096
"""The longest message from a client, with all its fragments."""
_LIMIT_REASONS = MappingProxyType(
    {
        CloseReason.MESSAGE_TOO_BIG: f"the message is over {MESSAGE_MAX_BYTES} bytes",
        CloseReason.UNSUPPORTED_DATA: "only text messages are supported",
    }
)


class ProtocolViolation(Exception):
    """The client violated the protocol or a limit; `code` goes into the close frame."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def is_valid_key(key: bytes) -> bool:
    """Whether this is a Sec-WebSocket-Key: 16 bytes in base64."""
    try:
        return len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except ValueError:
        return False


def accept_token(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers this key."""
    return generate_accept_token(key)


def text_frame(payload: bytes) -> bytes:
    """One text message as a frame; `payload` is UTF-8."""
    return bytes(_encoder().send_data(payload.decode()))


def pong_frame(payload: bytes) -> bytes:
    return bytes(_encoder().pong(payload))


def close_frame(code: int, reason: str = "") -> bytes:
    return bytes(_encoder().close(code, reason))


def _encoder() -> FrameProtocol:
    return FrameProtocol(client=False, extensions=[])


class MessageReader:
    """Takes the bytes of one client and returns its messages: TEXT, PING, PONG or CLOSE with their payload."""

    def __init__(self) -> None:
        self._protocol = FrameProtocol(client=False, extensions=[_MessageLimits()])
        self._parts: list[str] = []

    def feed(self, data: bytes) -> list[tuple[Opcode, bytes]]:
        """The messages that are complete now. Raises `ProtocolViolation`; after that nothing more may be fed."""
        self._protocol.receive_bytes(data)
        messages: list[tuple[Opcode, bytes]] = []
        try:
            for frame in self._protocol.received_frames():
                if isinstance(frame.payload, str):
                    self._parts.append(frame.payload)
                    if frame.message_finished:
                        messages.append((frame.opcode, "".join(self._parts).encode()))
                        self._parts.clear()
                else:
                    messages.append((frame.opcode, frame.payload if isinstance(frame.payload, bytes) else b""))
        except ParseFailed as error:
            raise ProtocolViolation(error.code, _LIMIT_REASONS.get(error.code, str(error))) from error
        return messages


class _MessageLimits(Extension):
    """Refuses binary and long messages by their headers, before their payload arrives."""

    name = "limits"

    def __init__(self) -> None:
        self._earlier_bytes = 0
        """Bytes of the finished frames of the current message."""
        self._frame_bytes = 0

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,  # noqa: ARG002
        payload_length: int,
    ) -> CloseReason | RsvBits:
        if opcode is Opcode.BINARY:
            return CloseReason.UNSUPPORTED_DATA
        # wsproto calls this again for a frame whose mask has not arrived yet, so nothing is added up here.
        if opcode is Opcode.TEXT:
            self._earlier_bytes = 0
        self._frame_bytes = payload_length if opcode in (Opcode.TEXT, Opcode.CONTINUATION) else 0
        if self._earlier_bytes + self._frame_bytes > MESSAGE_MAX_BYTES:
            return CloseReason.MESSAGE_TOO_BIG
        return RsvBits(False, False, False)

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,  # noqa: ARG002
    ) -> CloseReason | bytes | None:
        self._earlier_bytes += self._frame_bytes
        self._frame_bytes = 0
        return None
