"""Defines API routes with the right that each of them needs; a route without one needs admin rights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from herd.core.state.request import RequestKind
from herd.dialects import Dialect
from herd.trust.rights import Right

_NAME, _NAMED = "{name}", "/{name}"
UNVERSIONED, VERSIONED = "/dashboard/api/", "/dashboard/api/v1/"


class ApiRoute(Route):
    """One method at one path, for clients with this right.

    `body_type` (the record of its JSON body) and `query` (the names of its query) are for the API description.
    `is_form`: an HTML form without a script may send the request.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], object],
        method: str,
        right: Right,
        body_type: type | None = None,
        query: tuple[str, ...] = (),
        is_form: bool = False,
    ) -> None:
        super().__init__(path, endpoint, methods=[method])
        self.method = method
        self.right = right
        self.body_type = body_type
        self.query = query
        self.is_form = is_form
        self.description = (endpoint.__doc__ or "").strip()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The dashboard's paths exist twice: the path with a version number is guaranteed to stay compatible."""
        path = scope["path"]
        if path.startswith(VERSIONED):
            scope = {**scope, "path": UNVERSIONED + path[len(VERSIONED) :]}
        return super().matches(scope)


class Rights:
    """The right that a request needs, by its method and path, and which paths there are."""

    def __init__(self, dialects: Sequence[Dialect], routes: Sequence[BaseRoute]) -> None:
        self._inference = {route.path: right_of_kind(route.kind) for dialect in dialects for route in dialect.routes}
        self._routes = tuple(routes)
        listed = [path for dialect in dialects for _, path in dialect.listings]
        self._lists = frozenset(path for path in listed if not path.endswith(_NAMED))
        self._list_prefixes = tuple(path.removesuffix(_NAME) for path in listed if path.endswith(_NAMED))

    def __call__(self, method: str, path: str) -> Right:
        known = self._inference.get(path)
        if known is not None:
            return known
        scope = {"type": "http", "method": method, "path": path, "root_path": ""}
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route.right if isinstance(route, ApiRoute) else Right.ADMIN
        # A model list of a dialect, or an unknown path: an unknown path needs the same right as a list.
        return Right.LIST

    def is_served(self, path: str) -> bool:
        """Whether a route or a model list has this path, for any method."""
        if path in self._inference or path in self._lists:
            return True
        if any(len(path) > len(prefix) and path.startswith(prefix) for prefix in self._list_prefixes):
            return True
        scope = {"type": "http", "method": "GET", "path": path, "root_path": ""}
        return any(route.matches(scope)[0] is not Match.NONE for route in self._routes)


def right_of_kind(kind: RequestKind) -> Right:
    if kind is RequestKind.INFO:
        return Right.LIST
    return Right.EMBED if kind is RequestKind.EMBED else Right.CHAT
