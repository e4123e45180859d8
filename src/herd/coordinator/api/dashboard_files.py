"""The dashboard's files: pages, scripts and styles, as they were built into the package. Knows no data and decides no right but its own.

The pages are open to everybody who can reach the port, unless the owner asks for keys: they hold nothing about the fleet. What they show they
ask for at `/dashboard/api`, where keys and logins count, and who may not read is told by the page how to get in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

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
"""No script, style or request that is not ours, and nothing inline: a name that got in as markup could do nothing."""
ALWAYS: Final = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Vary": "Accept-Encoding",
    }
)
A_YEAR: Final = "public, max-age=31536000, immutable"
UNBUILT: Final = (
    "the pages were left out of this installation; a released wheel has them, and so has: python3 dev.py run"
)


@dataclass(frozen=True, slots=True)
class File:
    """One file in memory, plain and as it was compressed when built (None: no smaller)."""

    content_type: str
    body: bytes
    gzipped: bytes | None
    etag: str


class DashboardFiles:
    """Everything is read once, at the start: no request touches the disk."""

    def __init__(self, folder: Path = BUILT) -> None:
        self._index = _index(folder)
        self._assets = _assets(folder / "assets")
        self._problem = _problem(folder)

    @property
    def routes(self) -> list[ApiRoute]:
        """The documented addresses of the pages; each is the same file, whose script looks at the address."""
        return [
            ApiRoute("/dashboard", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/trends", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/models", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/apps", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/benchmarks", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/health", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/recommendations", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/settings", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/playground", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/requests/{request_id}", self.page, "GET", Right.PAGE),
            ApiRoute("/dashboard/assets/{name}", self.asset, "GET", Right.PAGE),
        ]

    async def page(self, request: Request) -> Response:
        """A page of the dashboard. 404 with what was missing where it was not built."""
        if self._index is None:
            return _refusal(f"the dashboard was not built: {self._problem}", "dashboard_not_built")
        return _answer(request, self._index, "no-cache")

    async def asset(self, request: Request) -> Response:
        """A script, style or picture of the pages, named by its content and so kept for ever."""
        found = self._assets.get(request.path_params["name"])
        if found is None:
            return _refusal("there is no such file; the page was perhaps built anew: reload it", "not_found")
        return _answer(request, found, A_YEAR)


def _refusal(message: str, code: str) -> Response:
    return Response(
        msgspec.json.encode({"error": message, "code": code}), 404, dict(ALWAYS), media_type="application/json"
    )


def _answer(request: Request, file: File, kept: str) -> Response:
    takes_gzip = file.gzipped is not None and "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{file.etag}{"-gz" if takes_gzip else ""}"'
    headers = {**ALWAYS, "Cache-Control": kept, "ETag": etag}
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
    return path.read_text("utf-8") if path.is_file() else UNBUILT


def _read(path: Path) -> File:
    body, gzipped = path.read_bytes(), path.with_name(path.name + ".gz")
    smaller = gzipped.read_bytes() if gzipped.is_file() else None
    if smaller is not None and len(smaller) >= len(body):
        smaller = None
    return File(TYPES[path.suffix], body, smaller, hashlib.sha256(body).hexdigest()[:16])
