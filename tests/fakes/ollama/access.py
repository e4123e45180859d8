"""Checks the Host and Origin headers of requests to the fake Ollama, as Ollama does on loopback."""

from __future__ import annotations

import contextlib
import ipaddress

LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal")
LOCAL_ORIGINS = ("localhost", "127.0.0.1", "0.0.0.0")
CORS_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
CORS_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)


def host_is_local(host: str) -> bool:
    """On loopback, Ollama accepts only host names that cannot be used for DNS rebinding."""
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name.strip("[]"))
        return address.is_private or address.is_loopback
    return not name or name == "localhost" or name.endswith(LOCAL_NAMES[1:])


def origin_is_allowed(origin: str) -> bool:
    scheme, _, rest = origin.partition("://")
    if scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file"):
        return True
    return scheme in ("http", "https") and rest.rsplit(":", 1)[0] in LOCAL_ORIGINS


def preflight_headers(origin: str, allow: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the answer to a preflight request."""
    vary = ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
    granted = [
        ("Access-Control-Allow-Headers", CORS_HEADERS),
        ("Access-Control-Allow-Methods", CORS_METHODS),
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Max-Age", "43200"),
    ]
    return [*granted, *allow, *(("Vary", name) for name in vary)]
