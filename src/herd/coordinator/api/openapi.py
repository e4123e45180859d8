"""What this coordinator answers, as an OpenAPI 3.1 document: made from the routes and their rights. Decides no right.

A route that exists is in it, and says who may come in; nothing is listed here by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.auth.access_control import SESSION_COOKIE
from herd.coordinator.auth.routes import ApiRoute, right_of_kind
from herd.dialects import Dialect
from herd.trust.rights import KEYLESS, Right

OPENAPI = "3.1.0"
Json = dict[str, object]

_REF = "#/components/schemas/{name}"
_WITH_KEY = ("bearer", "apiKey", "basic", "session")
_SCHEMES = MappingProxyType(
    {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A key made by `herd keys add NAME`."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        "basic": {"type": "http", "scheme": "basic", "description": "The key as password, with any name."},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": SESSION_COOKIE,
            "description": "A login to the dashboard.",
        },
    }
)
_ERROR = MappingProxyType(
    {
        "type": "object",
        "properties": {"error": {"type": ["string", "object"]}, "code": {"type": "string"}},
        "required": ["error"],
    }
)
_ASKED = MappingProxyType({"type": "object", "properties": {"model": {"type": "string"}}, "required": ["model"]})
"""What every client's language has in common; the rest is that language's own documentation."""


class OpenApi:
    """`GET /openapi.json`, made once, when it is first asked for."""

    def __init__(self, dialects: Sequence[Dialect], routes: Sequence[ApiRoute], version: str) -> None:
        self.routes = [ApiRoute("/openapi.json", self.document, "GET", Right.READ)]
        self._dialects = tuple(dialects)
        self._all = (*routes, *self.routes)
        self._version = version
        self._made: bytes | None = None

    async def document(self, _: Request) -> Response:
        """Every route with the right that it needs, as OpenAPI 3.1."""
        if self._made is None:
            self._made = msgspec.json.encode(document(self._dialects, self._all, self._version))
        return Response(self._made, media_type="application/json")


def document(dialects: Iterable[Dialect], routes: Sequence[ApiRoute], version: str) -> Json:
    """The whole document. `routes` are those outside of the dialects."""
    takes = [route.takes for route in routes if route.takes is not None]
    _, schemas = msgspec.json.schema_components(takes, ref_template=_REF)
    paths: dict[str, Json] = {}
    for dialect in dialects:
        _add_dialect(paths, dialect)
    for route in routes:
        path = route.path.replace(":path}", "}")  # how the framework says that slashes belong to it
        paths.setdefault(path, {})[route.method.lower()] = _of_guarded(route)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "herd",
            "version": version,
            "description": "One address for all the machines that run models.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": dict(_SCHEMES),
            "schemas": {**schemas, "Error": dict(_ERROR), "Asked": dict(_ASKED)},
        },
    }


def _add_dialect(paths: dict[str, Json], dialect: Dialect) -> None:
    for route in dialect.routes:
        body = {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(name="Asked")}}}}
        operation = _operation(
            route.method, route.path, right_of_kind(route.kind), f"{route.kind.value.capitalize()}, answered by a node."
        )
        paths.setdefault(route.path, {})[route.method.lower()] = {
            **operation,
            "tags": [dialect.name],
            "requestBody": body,
        }
    for method, path in dialect.listings:
        operation = _operation(method, path, Right.LIST, "Answered from memory.")
        paths.setdefault(path, {})[method.lower()] = {**operation, "tags": [dialect.name], **_parameters(path, ())}


def _of_guarded(route: ApiRoute) -> Json:
    operation = _operation(route.method, route.path, route.right, route.told)
    operation.update(_parameters(route.path, route.query))
    if route.takes is not None:
        schema = {"$ref": _REF.format(name=route.takes.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {**operation, "tags": ["fleet"]}


def _operation(method: str, path: str, right: Right, told: str) -> Json:
    refused = {
        "description": "Refused, and why.",
        "content": {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}},
    }
    return {
        "operationId": "_".join([method.lower(), *_words(path)]),
        "summary": told.partition("\n")[0],
        "x-right": right.value,
        "security": _security(right),
        "responses": {"2XX": {"description": "Done."}, "4XX": refused, "5XX": refused},
    }


def _security(right: Right) -> list[Mapping[str, list[str]]]:
    """An empty requirement means that it may also be asked without anything."""
    if right is Right.OPEN:
        return []
    with_key = [{name: [right.value]} for name in _WITH_KEY]
    return [{}, *with_key] if right in KEYLESS or right is Right.PAGE else [*with_key]


def _parameters(path: str, query: Iterable[str]) -> Json:
    named = [part[1:-1].partition(":")[0] for part in path.split("/") if part.startswith("{")]
    given = [
        *(
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in named
        ),
        *({"name": name, "in": "query", "required": False, "schema": {"type": "string"}} for name in query),
    ]
    return {"parameters": given} if given else {}


def _words(path: str) -> list[str]:
    return [
        part.strip("{}").partition(":")[0].replace("-", "_").replace(".", "_") for part in path.split("/") if part
    ] or ["root"]
