"""Finds the address that a client means when its base URL has a slash, a prefix or a capital letter too many or few.

`/api/tags/`, `//api/tags`, `/v1/v1/models`, `/ollama/api/chat`, `/V1/Models` and `/chat/completions` are what clients
send whose base URL was written for another server, and `/v1/chat/completions/models` is what they send whose base URL
is a complete address. This is called once for each new request head with an unknown path; a right path costs one
look-up. The rights are those of the address that is found.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

PREFIXES = frozenset({"api", "v0", "v1", "v1beta", "ollama", "openai", "anthropic"})
"""First segments that base URLs of other servers have."""
OTHER_NAMES: Mapping[str, str] = MappingProxyType({"/api/embed-text": "/api/embed"})
"""Addresses that ollama-herd has for the same route."""
PATH_MAX_CHARS = 512
SEGMENTS_MAX = 16
PREFIXES_MAX = 4
"""At most this many prefixes are taken away."""
_SIMILARITY_MIN = 0.75
_ROOTS = ("/v1/", "/api/")


def served_path(path: str, is_served: Callable[[str], bool]) -> str | None:
    """The path that is served and that the client means; None if there is none. `path` itself if it is served."""
    if is_served(path):
        return path
    if path in OTHER_NAMES and is_served(OTHER_NAMES[path]):
        return OTHER_NAMES[path]
    if len(path) > PATH_MAX_CHARS:
        return None
    segments = [segment for raw in path.split("/") if (segment := raw.strip())]
    if len(segments) > SEGMENTS_MAX:
        return None
    if not segments:
        return "/" if is_served("/") else None
    found = next(filter(is_served, _candidates(segments)), None)
    return found or _behind_an_address(segments, is_served)


def _behind_an_address(segments: list[str], is_served: Callable[[str], bool]) -> str | None:
    """The path of a client API behind the complete path of another: a base URL was written with one."""
    for end in range(len(segments) - 1, 1, -1):
        base, rest = "/" + "/".join(segments[:end]), segments[end:]
        if not base.lower().startswith(_ROOTS) or not is_served(base.lower()):
            continue
        found = (one for one in _candidates(rest) if one.startswith(_ROOTS) and is_served(one))
        return next(found, None)
    return None


def _candidates(segments: list[str]) -> list[str]:
    """Paths from the most to the least literal. Only prefixes, and then all segments, are written in lower case."""
    rest, last = segments, ""
    for _ in range(PREFIXES_MAX):
        if len(rest) < 2 or rest[0].lower() not in PREFIXES:
            break
        last, rest = rest[0].lower(), rest[1:]
    roots = dict.fromkeys((last, "v1", "api")) if last in ("v1", "api") else dict.fromkeys(("v1", "api"))
    tails = dict.fromkeys(("/".join(rest), "/".join([rest[0].lower(), *rest[1:]]), "/".join(rest).lower()))
    literal = ["/" + "/".join(segments)]
    return [*literal, *(f"/{root}/{tail}" for tail in tails for root in roots)]


def nearest_path(path: str, known: Sequence[str]) -> str | None:
    """The known path that resembles an unknown one, for the error message; None if none does."""
    text = path[:PATH_MAX_CHARS].lower()
    if text.strip("/") in PREFIXES:
        return next((one for one in known if one.startswith(f"/{text.strip('/')}/")), None)
    ends = [one for one in known if one.startswith(_ROOTS) and text.rstrip("/").endswith(_without_root(one))]
    if ends:
        return max(ends, key=len)
    return next(iter(difflib.get_close_matches(text, known, 1, _SIMILARITY_MIN)), None)


def _without_root(path: str) -> str:
    """`/chat/completions` of `/v1/chat/completions`: what addresses of other servers have in common with ours."""
    return "/" + path.split("/", 2)[2]
