"""Sends one GET request to an ASGI application without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.applications import Starlette


def ask(application: Starlette, url: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    """`url` is a path with its query."""
    return asyncio.run(asked(application, url, method, body))


async def asked(application: Starlette, url: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    path, _, query = url.partition("?")
    said: list[MutableMapping[str, Any]] = []
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
        said.append(message)

    await application(scope, receive, send)
    return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])
