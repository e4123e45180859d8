"""Serves the dashboard's pages, scripts and styles, which are built into the package.

The pages contain no data of the fleet; every client that can reach the port may load them, unless the owner requires
keys. Their scripts request data at `/dashboard/api`, which checks keys and sessions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from herd.coordinator.api.responses import error_response
from herd.coordinator.auth.routes import ApiRoute
from herd.trust.rights import Right

BUILT: Final = Path(__file__).resolve().parent / "static"
TYPES: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".webmanifest": "application/manifest+json",
        ".png": "image/png",
    }
)
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
"""Allows only the dashboard's own scripts, styles and requests, and nothing inline: a name that is inserted as markup
has no effect."""
SECURITY_HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Vary": "Accept-Encoding",
    }
)
CACHE_FOREVER: Final = "public, max-age=31536000, immutable"
NOT_BUILT: Final = (
    "this installation does not contain the pages; install a released wheel, or build them with: python3 dev.py run"
)


@dataclass(frozen=True, slots=True)
class File:
    """One file in memory, and its compressed form (None if that is not smaller)."""

    content_type: str
    body: bytes
    gzipped: bytes | None
    etag: str


class DashboardFiles:
    """Reads all files once, at the start: a request never reads the disk."""

    def __init__(self, folder: Path = BUILT) -> None:
        self._index = _index(folder)
        self._assets = _assets(folder / "assets")
        self._problem = _problem(folder)

    @property
    def routes(self) -> list[ApiRoute]:
        """The paths of the pages. All paths return the same file, whose script shows the page of the path."""
        return [
            ApiRoute("/dashboard", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/trends", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/models", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/apps", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/tags", self.tags, "GET", Right.PAGE),
            ApiRoute("/dashboard/benchmarks", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/health", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/recommendations", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/settings", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/playground", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/requests/{request_id}", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/assets/{name}", self.asset, "GET", Right.PAGE),
        ]

    async def page(self, request: Request) -> Response:
        """Returns the dashboard's page; 404 if the pages were not built."""
        if self._index is None:
            return _not_found(f"the dashboard was not built: {self._problem}", "dashboard_not_built")
        return _answer(request, self._index, "no-cache")

    async def tags(self, _: Request) -> Response:
        """Redirects to the page of apps, which has this address in ollama-herd."""
        return RedirectResponse("/dashboard/apps", headers=SECURITY_HEADERS)

    async def asset(self, request: Request) -> Response:
        """Returns a script, style or image of the dashboard; browsers may cache it forever.

        Its name changes with its content.
        """
        found = self._assets.get(request.path_params["name"])
        if found is None:
            return _not_found("file not found; the dashboard may have been updated: reload the page", "not_found")
        return _answer(request, found, CACHE_FOREVER)


def _not_found(message: str, code: str) -> Response:
    return error_response(message, code, 404, SECURITY_HEADERS)


def _answer(request: Request, file: File, cache_control: str) -> Response:
    takes_gzip = file.gzipped is not None and "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{file.etag}{"-gz" if takes_gzip else ""}"'
    headers = {**SECURITY_HEADERS, "Cache-Control": cache_control, "ETag": etag}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if takes_gzip:
        headers["Content-Encoding"] = "gzip"
    return Response(file.gzipped if takes_gzip else file.body, 200, {**headers, "Content-Type": file.content_type})


def _index(folder: Path) -> File | None:
    path = folder / "index.html"
    return _read(path) if path.is_file() else None


def _assets(folder: Path) -> Mapping[str, File]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return MappingProxyType({path.name: _read(path) for path in found if path.suffix in TYPES})


def _problem(folder: Path) -> str:
    path = folder / "missing.txt"
    return path.read_text("utf-8") if path.is_file() else NOT_BUILT


def _read(path: Path) -> File:
    body, gzipped = path.read_bytes(), path.with_name(path.name + ".gz")
    smaller = gzipped.read_bytes() if gzipped.is_file() else None
    if smaller is not None and len(smaller) >= len(body):
        smaller = None
    return File(TYPES[path.suffix], body, smaller, hashlib.sha256(body).hexdigest()[:16])
