"""Tests that a single request returns a complete answer or a reason for any behavior of the server."""

from __future__ import annotations

import asyncio

import pytest

import herd.http1.client
from fakes.raw_server import Peer, RawServer
from herd.http1.client import Response, full_url, request


def answered(answer: bytes, method: str = "GET", body: bytes = b"", path: str = "/x?y=1") -> tuple[Response, bytes]:
    """The response of a server that sends `answer` and closes, and the request as the server received it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async def go() -> tuple[Response, bytes]:
        async with RawServer(script) as server:
            response = await request(method, f"http://127.0.0.1:{server.port}{path}", body)
            return response, server.requests[0]

    return asyncio.run(go())


def test_a_complete_answer_is_returned_with_its_status() -> None:
    response, received = answered(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "POST", b"{}")
    assert response == Response(404, b"no")
    assert (
        received.startswith(b"POST /x?y=1 HTTP/1.1\r\n")
        and received.endswith(b"\r\n\r\n{}")
        and b"application/json" in received
    )


def test_chunks_are_joined_and_a_body_without_length_ends_with_the_connection() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert answered(chunked)[0] == Response(200, b"abc")
    assert answered(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")[0] == Response(200, b"until the end")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "incomplete"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "incomplete"),
        (b"", "not HTTP"),
        (b"HTTP/1.", "not HTTP"),
        (b"garbage\r\n\r\n", "Expected"),
    ],
)
def test_an_incomplete_answer_is_an_error(answer: bytes, problem: str) -> None:
    response, _ = answered(answer)
    assert response.status == 0 and response.body == b"" and problem in response.problem


def test_a_head_or_body_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herd.http1.client, "RESPONSE_MAX_BYTES", 1000)
    assert "larger than 1000" in answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)[0].problem
    assert "larger than 1000" in answered(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000)[0].problem


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://[::1/", "http://127.0.0.1:1/"])
def test_a_missing_server_and_an_invalid_url_are_reasons_not_exceptions(url: str) -> None:
    response = asyncio.run(request("GET", url))
    assert response.status == 0 and response.problem


def test_a_server_that_never_answers_is_a_timeout() -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    async def go() -> Response:
        async with RawServer(silent) as server:
            return await request("GET", f"http://127.0.0.1:{server.port}/", timeout_s=0.05)

    assert asyncio.run(go()) == Response(0, problem="no answer within 0.05 s")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("http://box:8000/", "http://box:8000"),
        ("box", "http://box:99"),
        ("", "http://127.0.0.1:99"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::]:11434", "http://127.0.0.1:11434"),
        ("http://[fe80::1]:80", "http://[fe80::1]:80"),
        ("localhost", "http://127.0.0.1:99"),
    ],
)
def test_every_notation_of_a_host_becomes_a_url(given: str, url: str) -> None:
    assert full_url(given, 99) == url
