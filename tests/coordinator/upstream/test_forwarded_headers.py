"""Tests which of a client's headers reach a node."""

from __future__ import annotations

from herd.coordinator.upstream.forwarded_headers import request_lines


def test_headers_named_by_any_connection_header_are_not_forwarded() -> None:
    headers = [
        (b"connection", b"X-One, close"),
        (b"x-one", b"1"),
        (b"connection", b"x-two"),
        (b"x-two", b"2"),
        (b"x-three", b"3"),
    ]
    lines = request_lines(headers)
    assert b"x-one" not in lines and b"x-two" not in lines and b"x-three: 3\r\n" in lines
