"""Renders refusals in the error format of the client API that a path belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from herd.coordinator.auth.sloppy_paths import nearest_path
from herd.dialects import Dialect
from herd.errors import Refusal
from herd.http1.connections import ErrorAnswer
from herd.http1.contract import Exchange, Header

_CLIENT_APIS: Final = ("/v1/", "/api/")
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ErrorAnswers:
    """`new_request_id` makes the id for an answer to a request that was never admitted."""

    def __init__(self, dialects: Sequence[Dialect], new_request_id: Callable[[], str]) -> None:
        self._new_request_id = new_request_id
        self._by_client_header = [(dialect.client_header, dialect) for dialect in dialects if dialect.client_header]
        self._by_path = {route.path: dialect for dialect in dialects for route in dialect.routes}
        self._by_first_segment = {path.split("/")[1]: dialect for path, dialect in self._by_path.items()}
        self._default = dialects[0]
        self._methods = {route.path: route.method for dialect in dialects for route in dialect.routes}
        for dialect in dialects:
            for method, path in dialect.listings:
                self._methods.setdefault(path, method)

    def dialect_of(self, path: str, header: Callable[[bytes], object | None] = lambda _: None) -> Dialect:
        """The dialect whose clients send a header of this request, else of the path, else of its first segment."""
        for name, dialect in self._by_client_header:
            if header(name) is not None:
                return dialect
        if path in self._by_path:
            return self._by_path[path]
        below = [known for known in self._by_path if path.startswith(known + "/")]
        if below:
            return self._by_path[max(below, key=len)]
        return self._by_first_segment.get(path.strip("/").split("/")[0], self._default)

    def render(self, path: str | None, refusal: Refusal) -> ErrorAnswer:
        """The answer to a request that could not be read or that no dialect has answered."""
        dialect, request_id = self.dialect_of(path or "/"), self._new_request_id()
        response = dialect.error(refusal, request_id)
        return ErrorAnswer(response.status, response.content_type, response.body, dialect.id_headers(request_id))

    def lacking_id(self, exchange: Exchange, headers: Sequence[Header]) -> Sequence[Header]:
        """The header with a new request id, for an answer of a client API that has none."""
        if not exchange.path.startswith(_CLIENT_APIS):
            return ()
        dialect = self.dialect_of(exchange.path, exchange.header)
        has_id = any(name.lower() == dialect.request_id_header.lower() for name, _ in headers)
        return () if has_id else dialect.id_headers(self._new_request_id())

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answers a request without permission; a browser that asks for a page is sent to the login page."""
        if refusal.status == 401 and exchange.method == "GET" and b"text/html" in (exchange.header(b"accept") or b""):
            exchange.respond(303, ((b"location", b"/login"),), b"")
            return
        dialect, request_id = self.dialect_of(exchange.path, exchange.header), self._new_request_id()
        answer = dialect.error(refusal, request_id)
        headers = [(b"content-type", answer.content_type.encode()), *dialect.id_headers(request_id)]
        if answer.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        exchange.respond(answer.status, headers, answer.body)

    async def not_found(self, request: Request, _: Exception) -> Response:
        """404 in the dialect's format under /v1. Elsewhere Ollama's own text, which its clients expect.

        Both name the right address if the path resembles one.
        """
        path = request.url.path
        dialect = self.dialect_of(path, lambda name: request.headers.get(name.decode("ascii")))
        missing = next((known for known in dialect.absent if path == known or path.startswith(known + "/")), None)
        nearest = nearest_path(path, tuple(self._methods))
        advice = f"; did you mean {self._methods[nearest]} {nearest}?" if nearest is not None else ""
        if missing is not None:
            advice = f": {dialect.absent[missing]}"
        if path.startswith("/v1"):
            return self._in_dialect(dialect, Refusal(404, "not_found", f"path not found{advice}"))
        return PlainTextResponse(f"404 page not found{advice}", 404, self._id_headers(dialect, self._new_request_id()))

    async def wrong_method(self, request: Request, error: Exception) -> Response:
        """405 in the dialect's format for the paths of client APIs."""
        headers = (error.headers if isinstance(error, HTTPException) else None) or {}
        allow, path = headers.get("Allow", ""), request.url.path
        if not path.startswith(_CLIENT_APIS):
            return PlainTextResponse("405 method not allowed", 405, headers)
        dialect = self.dialect_of(path, lambda name: request.headers.get(name.decode("ascii")))
        refusal = Refusal(405, "method_not_allowed", f"method not allowed here; this path takes {allow}")
        return self._in_dialect(dialect, refusal, headers)

    def _in_dialect(self, dialect: Dialect, refusal: Refusal, more: Mapping[str, str] = NO_HEADERS) -> Response:
        request_id = self._new_request_id()
        answer, headers = dialect.error(refusal, request_id), self._id_headers(dialect, request_id)
        return Response(answer.body, answer.status, {**headers, **more}, answer.content_type)

    @staticmethod
    def _id_headers(dialect: Dialect, request_id: str) -> dict[str, str]:
        return {name.decode("ascii"): value.decode("ascii") for name, value in dialect.id_headers(request_id)}
