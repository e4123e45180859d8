"""Routes that say what their caller must be allowed. What says nothing needs everything. Knows no caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from herd.core.state.request import RequestKind
from herd.dialects import Dialect
from herd.trust.rights import Right

UNVERSIONED, VERSIONED = "/dashboard/api/", "/dashboard/api/v1/"


class ApiRoute(Route):
    """One method at one path, open to who has the right. `takes` and `query` are for its description: the record that its
    body is read as, and the names that its query may have. `is_form`: a page without a script may send it."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], object],
        method: str,
        right: Right,
        takes: type | None = None,
        query: tuple[str, ...] = (),
        is_form: bool = False,
    ) -> None:
        super().__init__(path, endpoint, methods=[method])
        self.method = method
        self.right = right
        self.takes = takes
        self.query = query
        self.is_form = is_form
        self.told = (endpoint.__doc__ or "").strip()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """The dashboard's paths have a second name, under which they are promised to stay as they are."""
        path = scope["path"]
        if path.startswith(VERSIONED):
            scope = {**scope, "path": UNVERSIONED + path[len(VERSIONED) :]}
        return super().matches(scope)


class Rights:
    """Which right a request needs, by its method and path."""

    def __init__(self, dialects: Sequence[Dialect], routes: Sequence[BaseRoute]) -> None:
        self._inference = {route.path: right_of_kind(route.kind) for dialect in dialects for route in dialect.routes}
        self._routes = tuple(routes)

    def __call__(self, method: str, path: str) -> Right:
        known = self._inference.get(path)
        if known is not None:
            return known
        scope = {"type": "http", "method": method, "path": path, "root_path": ""}
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route.right if isinstance(route, ApiRoute) else Right.ADMIN
        # A list of a dialect, or nothing at all: a path that leads nowhere is told from no further than a list is.
        return Right.LIST


def right_of_kind(kind: RequestKind) -> Right:
    if kind is RequestKind.INFO:
        return Right.LIST
    return Right.EMBED if kind is RequestKind.EMBED else Right.CHAT
