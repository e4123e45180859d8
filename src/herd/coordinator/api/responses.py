"""Builds JSON responses, reads JSON bodies up to a limit, and renders expected failures as JSON."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.auth.membership import NewSessionRequired
from herd.coordinator.storage.credential_store import CredentialStoreFull
from herd.coordinator.storage.writer import TraceStore
from herd.errors import BadRequest, HerdError

BODY_MAX_BYTES = 64 * 1024
JSON = "application/json"

Body = TypeVar("Body")
Endpoint = Callable[[Request], Awaitable[Response]]


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type=JSON)


def error_response(message: str, code: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return json_response({"error": message, "code": code}, status, headers)


async def query_response(store: TraceStore, query: Callable[[sqlite3.Connection], object]) -> Response:
    """Runs the query and encodes its result, both on the store's reading thread. Raises `Unavailable`."""
    body = await store.ask(lambda connection: msgspec.json.encode(query(connection)))
    return Response(body, media_type=JSON)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body, decoded as this record. Raises `BadRequest`."""
    body = await request.body()
    if len(body) > BODY_MAX_BYTES:
        raise BadRequest(f"the request body is larger than {BODY_MAX_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the request body is invalid: {error}") from error


def json_errors(endpoint: Endpoint) -> Endpoint:
    """Renders the endpoint's expected failures as JSON with their status."""

    @functools.wraps(endpoint)
    async def wrapper(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NewSessionRequired as error:
            return json_response(
                {"error": error.refusal.message, "code": error.code, "session": error.session}, error.status
            )
        except HerdError as error:
            return error_response(error.refusal.message, error.refusal.code, error.refusal.status)
        except CredentialStoreFull as error:
            return error_response(str(error), "full", 507)
        except OSError as error:
            return error_response(f"could not write to disk: {error}", "not_kept", 507)

    return wrapper
