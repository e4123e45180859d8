"""Sends one GET request to an ASGI application without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.applications import Starlette


def send_request(application: Starlette, url: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    """`url` is a path with its query."""
    return asyncio.run(send_request_async(application, url, method, body))


async def send_request_async(
    application: Starlette, url: str, method: str = "GET", body: bytes = b""
) -> tuple[int, bytes]:
    path, _, query = url.partition("?")
    sent: list[MutableMapping[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 0),
        "server": ("herd", 80),
    }

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
