"""Which requests a web page may have made: Host and Origin. Knows no route; header values in, a verdict out.

A page of any site can make a browser send requests to this network. Two marks give it away: the name in Host when the
site let its own name point here (DNS rebinding), and Origin when it calls across. Programs send neither wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from herd.addresses import parse_address
from herd.errors import Refusal

LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Names that no public name server answers for (RFC 6761, 6762, 8375, and two that people use)."""
HEADER_MAX_CHARS = 512
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})
_WEB = ("http", "https")
_APPLICATIONS = ("app", "tauri", "vscode-webview", "vscode-file")
"""Programs with a browser inside; no site can claim these."""


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """Under which names this coordinator is reached, and which other origins may call it. All in lower case."""

    hosts: frozenset[str]
    origins: frozenset[str]

    @classmethod
    def of(cls, hosts: Iterable[str], origins: Iterable[str]) -> AllowedNames:
        return cls(frozenset(h.lower() for h in hosts), frozenset(o.lower().rstrip("/") for o in origins))


def host_refusal(host: str, names: AllowedNames) -> Refusal | None:
    """`host` as in the Host header; empty where HTTP/1.0 sent none. None when it may be us that is meant."""
    name = host_name(host)
    if not host or parse_address(name) is not None or "." not in name or name in names.hosts:
        return None
    if name.endswith(LOCAL_SUFFIXES):
        return None
    shown = "".join(c if c.isprintable() else "?" for c in name[:80])
    return Refusal(
        421, "host_not_allowed", f"this is not {shown}; if it should be, set FLEET_ALLOWED_HOSTS={shown} and restart"
    )


def origin_refusal(origin: str, host: str, changes_state: bool, names: AllowedNames) -> Refusal | None:
    """`origin` as in the Origin header, empty where there is none: then no page called across.

    The page's own origin (ours) may do everything. Pages served by this machine may ask models, as with Ollama, but
    change nothing. Others must be allowed by name.
    """
    if not origin or is_same_origin(origin, host) or origin.lower().rstrip("/") in names.origins:
        return None
    if not changes_state and _is_local_page(origin):
        return None
    shown = "".join(c if c.isprintable() else "?" for c in origin[:80])
    return Refusal(
        403,
        "origin_not_allowed",
        f"pages of {shown} may not call this; to allow them, set FLEET_ALLOWED_ORIGINS={shown}",
    )


def is_same_origin(origin: str, host: str) -> bool:
    """Whether the page came from the host and port that it calls now."""
    if len(origin) > HEADER_MAX_CHARS:
        return False
    try:
        parts = urlsplit(origin)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return False
    if parts.scheme not in _WEB or not parts.hostname:
        return False
    name, _, given = host.lower().rpartition(":")
    if not given.isdigit() or not name:
        name, given = host.lower(), str(port)
    return (parts.hostname, str(port)) == (name.strip("[]"), given)


def host_name(host: str) -> str:
    """The name without its port, in lower case, without brackets and a final dot."""
    if len(host) > HEADER_MAX_CHARS:
        return "too.long"
    text = host.lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0].rstrip(".") if text.count(":") == 1 else text.rstrip(".")


def content_refusal(content_type: str, is_browser: bool) -> Refusal | None:
    """What a form of any page can send without asking first is not taken from a browser."""
    kind = content_type.partition(";")[0].strip().lower()
    if not is_browser or kind == "application/json":
        return None
    return Refusal(415, "json_required", "send this with Content-Type: application/json")


def _is_local_page(origin: str) -> bool:
    """A page or an application of the caller's own machine."""
    if len(origin) > HEADER_MAX_CHARS:
        return False
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    return parts.scheme in _APPLICATIONS or (parts.scheme in _WEB and (parts.hostname or "") in _LOOPBACK_NAMES)
