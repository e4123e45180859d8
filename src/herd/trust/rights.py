"""What a caller may do, from where it calls and which key it has. Knows no route, no HTTP and no database.

    right    without a key                                          with a key that has the scope
    OPEN     everybody                                              -
    PAGE     everybody, unless the owner asks for keys by setting   any
    LIST     this machine and private networks, while no key exists any
    CHAT     the same                                               chat
    EMBED    the same                                               embed or chat
    READ     this machine                                           read
    MODELS   this machine                                           models
    ADMIN    this machine                                           admin

`admin` includes every other scope. As soon as the owner makes a first key, or asks for keys by setting, nobody lists or
asks without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from herd.errors import Refusal
from herd.trust.addresses import Nearness
from herd.trust.keys import ApiKey, Scope


class Right(Enum):
    OPEN = "open"
    PAGE = "page"
    LIST = "list"
    CHAT = "chat"
    EMBED = "embed"
    READ = "read"
    MODELS = "models"
    ADMIN = "admin"


KEYLESS = frozenset({Right.LIST, Right.CHAT, Right.EMBED})
"""What Ollama's clients, many of which cannot send a key, do."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: from how near, with which key (None: none, or one that is no key of ours), and whether by a login."""

    nearness: Nearness
    key: ApiKey | None = None
    is_logged_in: bool = False


def judge(right: Right, caller: Caller, has_keys: bool, requires_key: bool) -> Refusal | None:
    """None when the caller may; else 401 where a key would help, 403 where this key does not reach."""
    if right is Right.OPEN or caller.is_logged_in or (right is Right.PAGE and not requires_key):
        return None
    if caller.key is not None:
        return None if _reaches(caller.key, right) else _FORBIDDEN[right]
    if right in KEYLESS:
        is_keyless = not (has_keys or requires_key) and caller.nearness is not Nearness.FAR
        return None if is_keyless else KEY_WANTED
    return None if caller.nearness is Nearness.HERE else ADMIN_WANTED


def _reaches(key: ApiKey, right: Right) -> bool:
    return Scope.ADMIN in key.scopes or right in (Right.LIST, Right.PAGE) or not _SCOPES[right].isdisjoint(key.scopes)


_SCOPES = MappingProxyType(
    {
        Right.CHAT: frozenset({Scope.CHAT}),
        Right.EMBED: frozenset({Scope.EMBED, Scope.CHAT}),
        Right.READ: frozenset({Scope.READ}),
        Right.MODELS: frozenset({Scope.MODELS}),
        Right.ADMIN: frozenset({Scope.ADMIN}),
    }
)

KEY_WANTED = Refusal(
    401,
    "key_required",
    "an API key is required; its owner makes one with: herd keys add NAME, and it is sent as: Authorization: Bearer KEY",
)
KEY_UNKNOWN = Refusal(
    401, "invalid_api_key", "this API key is unknown, expired or revoked; `herd keys list` shows those that are valid"
)
ADMIN_WANTED = Refusal(
    401,
    "admin_required",
    "this is allowed on the coordinator's own machine, or with a key made by: herd keys add NAME --scope admin",
)
_FORBIDDEN = MappingProxyType(
    {
        right: Refusal(
            403,
            "scope_missing",
            f"this key lacks the scope {right.value}; make another with: herd keys add NAME --scope {right.value}",
        )
        for right in Right
    }
)
