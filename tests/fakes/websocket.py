"""Implements a WebSocket client for tests: the handshake and the frames, independent of the server's code."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any


def client_frame(opcode: int, payload: bytes, is_last: bool = True, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", (0x80 if is_last else 0) | opcode, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", (0x80 if is_last else 0) | opcode, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", (0x80 if is_last else 0) | opcode, 0x80 | 127, length)
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


class Closed(Exception):
    """The server closed the connection; `code` is None where it sent no close frame."""

    def __init__(self, code: int | None) -> None:
        super().__init__(str(code))
        self.code = code


class Client:
    """Blocking. `status` is the handshake's; 101 where it is open."""

    def __init__(
        self,
        port: int,
        path: str = "/dashboard/api/v1/live",
        headers: dict[str, str] | None = None,
        receive_bytes: int = 0,
    ) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", port))
        given = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        self._bytes = b""
        while b"\r\n\r\n" not in self._bytes:
            self._more()
        self.head, _, self._bytes = self._bytes.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1])

    def send_json(self, value: object) -> None:
        self.send(client_frame(0x1, json.dumps(value).encode()))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the server: opcode and payload."""
        first, second = self._take(2)
        assert first & 0x80 and not second & 0x80, "fragmented or masked"
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        return first & 0x0F, self._take(length)

    def receive(self) -> dict[str, Any]:
        """The next message. Raises `Closed`."""
        while True:
            opcode, payload = self.frame()
            if opcode == 0x8:
                raise Closed(int.from_bytes(payload[:2], "big") if payload else None)
            if opcode == 0x1:
                value = json.loads(payload)
                assert isinstance(value, dict)
                return value

    def receive_topic(self, topic: str, kind: str) -> dict[str, Any]:
        """The next message of this topic and type."""
        while True:
            message = self.receive()
            if (message.get("topic"), message["type"]) == (topic, kind):
                return message

    def close(self) -> None:
        self.socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._bytes) < count:
            self._more()
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise Closed(None)
        self._bytes += data
