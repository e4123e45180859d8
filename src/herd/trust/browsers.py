"""Refuses requests that a web page of another site makes through a browser, by the Host and Origin headers.

A page of any site can make a browser send requests to this network. Two headers reveal such a request: Host contains
the site's name if that name points to this machine (DNS rebinding), and Origin names the site of a cross-origin call.
Other programs send a correct Host and no Origin.

Another device of the network can answer for names such as NAME.local or for a bare name, and let one point to 127.0.0.1
after the browser has loaded its page. Such a name may be this coordinator's in the network, so it may use models; but
it does not show that the caller is this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from herd.addresses import parse_address
from herd.errors import Refusal

LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Names that a public name server does not resolve (RFC 6761, 6762, 8375, and two in common use)."""
HEADER_MAX_CHARS = 512
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})
_OWN_NAMES = frozenset({"localhost"})
_WEB = ("http", "https")
_APPLICATIONS = ("app", "file", "tauri", "vscode-webview", "vscode-file")
"""Schemes of programs that contain a browser; a web site cannot use these. Ollama allows the same."""
_OPAQUE = "null"
"""The origin of sandboxed frames, which any web site can create, and of local files in some browsers."""


class Effect(Enum):
    """What a request does, as far as it matters for the page that sends it."""

    USES_MODELS = "uses models"
    READS = "reads the fleet's data"
    READS_AS_ADMIN = "reads what only administrators may see"
    CHANGES = "changes state"


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """The host names of this coordinator and the other origins that may call it, in lower case.

    `patterns` are origins with `*`, split there: "http://localhost:*" is ("http://localhost:", "").
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    patterns: tuple[tuple[str, ...], ...] = ()
    own: frozenset[str] = frozenset()
    """The names that this machine has for itself."""

    @classmethod
    def of(cls, hosts: Iterable[str], origins: Iterable[str], machine: str = "") -> AllowedNames:
        """`machine`: the machine's own name, as the operating system says it."""
        named = {_without_slash(o.lower()) for o in origins}
        patterns = tuple(tuple(o.split("*")) for o in sorted(named) if "*" in o)
        plain = frozenset(o for o in named if "*" not in o)
        return cls(frozenset(host_name(h) for h in hosts), plain, patterns, _own_names(machine))

    def has_origin(self, origin: str) -> bool:
        """Whether exactly this origin was allowed. The opaque origin names no page, so it is not exact."""
        return origin != _OPAQUE and origin in self.origins

    def matches_origin(self, origin: str) -> bool:
        """Whether a pattern allows this origin, or it is the opaque origin and that was allowed."""
        return (origin == _OPAQUE and origin in self.origins) or any(_matches(p, origin) for p in self.patterns)


def host_refusal(host: str, names: AllowedNames) -> Refusal | None:
    """Refuses a Host header with a name that is not this coordinator's. `host` is empty if HTTP/1.0 sent no header."""
    name = host_name(host)
    if not host or parse_address(name) is not None or "." not in name or name in names.hosts:
        return None
    if name.endswith(LOCAL_SUFFIXES):
        return None
    shown = _shown(name)
    return Refusal(
        421,
        "host_not_allowed",
        f"this coordinator does not serve the host {shown}; to allow it, set FLEET_ALLOWED_HOSTS={shown} and restart",
    )


def machine_refusal(host: str, names: AllowedNames) -> Refusal | None:
    """Refuses the rights of this machine under a name that another machine may have, or without a name (HTTP/1.0).

    `host` is the Host header of a request from a loopback address.
    """
    name = host_name(host)
    address = parse_address(name)
    is_own = address.is_loopback if address is not None else name in _OWN_NAMES or name in names.own
    if is_own or name in names.hosts:
        return None
    shown = _shown(name)
    ways = "use http://localhost or an admin key"
    if name and address is None:
        ways += f"; to let this machine use the name, set FLEET_ALLOWED_HOSTS={shown} and restart"
    return Refusal(
        403,
        "host_not_this_machine",
        f"the host {shown or '(none)'} does not show that this is the coordinator's own machine: {ways}",
    )


def origin_refusal(origin: str, host: str, effect: Effect, names: AllowedNames) -> Refusal | None:
    """Refuses a cross-origin call. `origin` is the Origin header, empty if there is none.

    Pages of this coordinator and of origins in `names` may do everything. Pages from the caller's own machine may use
    models, as with Ollama, and read the fleet's data, but nothing more. Pages that only a pattern allows may only use
    models: a pattern such as `chrome-extension://*` includes pages that were not named. The same applies to pages of
    NAME.localhost, which some browsers ask the network for.
    """
    asked = _without_slash(origin.lower()) if len(origin) <= HEADER_MAX_CHARS else ""
    if not origin or names.has_origin(asked):
        return None
    if "@" not in origin:  # no browser sends the name of a user, and a host behind it is easily mistaken
        if is_same_origin(origin, host):
            return None
        if effect in (Effect.USES_MODELS, Effect.READS) and _is_local_page(origin):
            return None
        if effect is Effect.USES_MODELS and (names.matches_origin(asked) or _is_named_localhost(origin)):
            return None
    shown = _shown(origin)
    return Refusal(
        403,
        "origin_not_allowed",
        f"pages of {shown} may not call this coordinator; to allow them, set FLEET_ALLOWED_ORIGINS={shown}",
    )


def is_same_origin(origin: str, host: str) -> bool:
    """Whether the page was loaded from the host and port that it calls."""
    if len(origin) > HEADER_MAX_CHARS:
        return False
    try:
        parts = urlsplit(origin)
        usual = 443 if parts.scheme == "https" else 80
        port = parts.port or usual
    except ValueError:
        return False
    if parts.scheme not in _WEB or not parts.hostname:
        return False
    name, _, given = host.lower().rpartition(":")
    if not given.isdigit() or not name:
        name, given = host.lower(), str(usual)
    return (parts.hostname, str(port)) == (name.strip("[]"), given)


def host_name(host: str) -> str:
    """The name in lower case, without port, brackets and trailing dot."""
    if len(host) > HEADER_MAX_CHARS:
        return "too.long"
    text = host.lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0].rstrip(".") if text.count(":") == 1 else text.rstrip(".")


def content_refusal(content_type: str, is_browser: bool) -> Refusal | None:
    """Refuses a browser's request that is not JSON: a form on any site can send one without a preflight request."""
    kind = content_type.partition(";")[0].strip().lower()
    if not is_browser or kind == "application/json":
        return None
    return Refusal(415, "json_required", "send this request with the header Content-Type: application/json")


def _own_names(machine: str) -> frozenset[str]:
    """The machine's name, its first part, and the name that it announces by mDNS."""
    name = host_name(machine)
    first = name.partition(".")[0]
    return frozenset((name, first, f"{first}.local")) if first else frozenset()


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])


def _is_local_page(origin: str) -> bool:
    """Whether a page or an application on the caller's own machine sent the request."""
    scheme, name = _scheme_and_name(origin)
    if scheme in _APPLICATIONS:
        return True
    # Applications made with Tauri have the origin http://tauri.localhost on Windows.
    return scheme in _WEB and (name in _LOOPBACK_NAMES or name == "tauri.localhost")


def _is_named_localhost(origin: str) -> bool:
    scheme, name = _scheme_and_name(origin)
    return scheme in _WEB and name.endswith(".localhost")


def _scheme_and_name(origin: str) -> tuple[str, str]:
    if len(origin) > HEADER_MAX_CHARS:
        return "", ""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _without_slash(origin: str) -> str:
    """The origin without the slash that people add at its end; `file://` stays."""
    return origin if origin.endswith("://") else origin.rstrip("/")


def _matches(pattern: tuple[str, ...], origin: str) -> bool:
    """Whether the parts of a pattern occur in this order, the first at the start and the last at the end."""
    first, last = pattern[0], pattern[-1]
    if len(origin) < len(first) + len(last) or not (origin.startswith(first) and origin.endswith(last)):
        return False
    at, stop = len(first), len(origin) - len(last)
    for part in pattern[1:-1]:
        at = origin.find(part, at, stop)
        if at < 0:
            return False
        at += len(part)
    return True
