"""Decides what a caller may do, by its network and its API key.

    right    without a key                                          with a key that has the scope
    OPEN     every caller                                           -
    PAGE     every caller, unless FLEET_REQUIRE_KEY is set          any
    LIST     this machine and private networks, while no key exists any
    CHAT     as LIST                                                chat
    EMBED    as LIST                                                embed or chat
    READ     this machine                                           read
    MODELS   this machine                                           models
    ADMIN    this machine                                           admin

`admin` includes every other scope. While a valid key exists, or FLEET_REQUIRE_KEY is set, LIST, CHAT and EMBED need a
key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from herd.errors import Refusal
from herd.trust.addresses import NetworkZone
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
"""What Ollama's clients do; many of them cannot send a key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. `key` is None if there is no key, or a text that does not have our format."""

    zone: NetworkZone
    key: ApiKey | None = None
    is_logged_in: bool = False
    machine_refusal: Refusal | None = None
    """Why a caller with an address of this machine does not count as this machine."""


def access_refusal(right: Right, caller: Caller, has_keys: bool, requires_key: bool) -> Refusal | None:
    """None if the caller may do this; 401 if it needs a key, 403 if its key lacks the scope."""
    if right is Right.OPEN or caller.is_logged_in or (right is Right.PAGE and not requires_key):
        return None
    if caller.key is not None:
        return None if _has_scope(caller.key, right) else _FORBIDDEN[right]
    if right in KEYLESS:
        is_keyless = not (has_keys or requires_key) and caller.zone is not NetworkZone.PUBLIC
        return None if is_keyless else KEY_REQUIRED
    return caller.machine_refusal if caller.zone is NetworkZone.THIS_MACHINE else ADMIN_REQUIRED


def _has_scope(key: ApiKey, right: Right) -> bool:
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

KEY_REQUIRED = Refusal(
    401,
    "key_required",
    "an API key is required; create one with: herd keys add NAME, and send it as: Authorization: Bearer KEY",
)
KEY_INVALID = Refusal(
    401, "invalid_api_key", "this API key is unknown, expired or revoked; list valid keys with: herd keys list"
)
ADMIN_REQUIRED = Refusal(
    401,
    "admin_required",
    "this needs an admin key or the coordinator's own machine; create a key with: herd keys add NAME --scope admin",
)
_FORBIDDEN = MappingProxyType(
    {
        right: Refusal(
            403,
            "scope_missing",
            f"this key lacks the scope {right.value}; create a key with: herd keys add NAME --scope {right.value}",
        )
        for right in Right
    }
)
