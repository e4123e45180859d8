"""Renders refusals in the error format of the client API that a path belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from herd.coordinator.auth.sloppy_paths import nearest_path
from herd.dialects import Dialect
from herd.errors import Refusal
from herd.http1.contract import Exchange


class ErrorAnswers:
    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._by_path = {route.path: dialect for dialect in dialects for route in dialect.routes}
        self._by_first_segment = {path.split("/")[1]: dialect for path, dialect in self._by_path.items()}
        self._default = dialects[0]
        self._methods = {route.path: route.method for dialect in dialects for route in dialect.routes}
        for dialect in dialects:
            for method, path in dialect.listings:
                self._methods.setdefault(path, method)

    def dialect_of(self, path: str) -> Dialect:
        """The dialect of this path, else of its first segment, else the first dialect."""
        found = self._by_path.get(path)
        return found or self._by_first_segment.get(path.strip("/").split("/")[0], self._default)

    def render(self, path: str | None, refusal: Refusal) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        response = self.dialect_of(path or "/").error(refusal)
        return response.status, response.content_type, response.body

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answers a request without permission; a browser that asks for a page is sent to the login page."""
        if refusal.status == 401 and exchange.method == "GET" and b"text/html" in (exchange.header(b"accept") or b""):
            exchange.respond(303, ((b"location", b"/login"),), b"")
            return
        status, content_type, body = self.render(exchange.path, refusal)
        headers = [(b"content-type", content_type.encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        exchange.respond(status, headers, body)

    async def not_found(self, request: Request, _: Exception) -> Response:
        """404 in the dialect's format under /v1. Elsewhere Ollama's own text, which its clients expect.

        Both name the right address if the path resembles one.
        """
        path = request.url.path
        nearest = nearest_path(path, tuple(self._methods))
        advice = f"; did you mean {self._methods[nearest]} {nearest}?" if nearest is not None else ""
        if not path.startswith("/v1"):
            return PlainTextResponse(f"404 page not found{advice}", 404)
        status, content_type, body = self.render(path, Refusal(404, "not_found", f"path not found{advice}"))
        return Response(body, status, media_type=content_type)
