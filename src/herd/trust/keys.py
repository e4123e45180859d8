"""What an API key is, and whether a presented one is known. Knows no database; the secret itself is never kept.

A key reads `herd_ID_SECRET`. The id finds the record, the secret is compared by its SHA-256 in constant time; a secret has
160 random bits, so a slow password hash would add nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from types import MappingProxyType

PREFIX = "herd_"
ID_BYTES = 5
SECRET_BYTES = 20
NAME_MAX_CHARS = 64
PRESENTED_MAX_CHARS = 256
"""Longer than any key of ours: not even looked at."""


class Scope(Enum):
    CHAT = "chat"
    EMBED = "embed"
    READ = "read"
    MODELS = "models"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is kept. Times are Unix seconds; 0 for a limit means none."""

    id: str
    name: str
    digest: str
    """SHA-256 of the secret, in hex."""
    scopes: frozenset[Scope]
    created_at: float
    models: tuple[str, ...] = ()
    """Names or patterns (`llama*`) of the models that may be asked; empty: all."""
    requests_per_minute: int = 0
    concurrent_max: int = 0
    tokens_per_month: int = 0
    expires_at: float = 0.0
    revoked_at: float = 0.0

    def is_valid(self, at: float) -> bool:
        return not self.revoked_at and (not self.expires_at or at < self.expires_at)

    def is_secret(self, secret: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(digest(secret), self.digest)

    def allows_model(self, name: str) -> bool:
        """`name` in its canonical form."""
        return not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)


def shared_key(key_id: str, name: str, secret: str) -> ApiKey | None:
    """A key that the owner chose himself, for chats alone; None where he chose none."""
    return ApiKey(key_id, name, digest(secret), frozenset({Scope.CHAT}), 0.0) if secret else None


class Keyring:
    """All keys that were ever made, looked up by id. Replaced whole when one changes."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: Mapping[str, ApiKey] = MappingProxyType({key.id: key for key in keys})

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def by_id(self, key_id: str, at: float) -> ApiKey | None:
        """The valid key of this id, for who has proved before that he has it."""
        key = self._keys.get(key_id)
        return key if key is not None and key.is_valid(at) else None

    def has_valid(self, at: float) -> bool:
        """Whether any key could be presented now."""
        return any(key.is_valid(at) for key in self._keys.values())

    def find(self, presented: str, at: float) -> ApiKey | None:
        """The valid key that this text is, or None. Takes as long for an unknown id as for a wrong secret."""
        key_id, secret = split(presented)
        key = self._keys.get(key_id)
        is_same = hmac.compare_digest(digest(secret), key.digest if key is not None else _NOBODY)
        return key if key is not None and is_same and key.is_valid(at) else None


def split(presented: str) -> tuple[str, str]:
    """Id and secret of a presented key; two empty strings for what is no key of ours."""
    if len(presented) > PRESENTED_MAX_CHARS or not presented.startswith(PREFIX):
        return "", ""
    key_id, _, secret = presented.removeprefix(PREFIX).partition("_")
    return key_id, secret


def looks_like_ours(presented: str) -> bool:
    """Clients that must send something send `ollama` or `sk-none`; only what has our prefix was meant as a key."""
    return presented.startswith(PREFIX)


def minted(random: bytes) -> tuple[str, str, str]:
    """A new key from `ID_BYTES + SECRET_BYTES` random bytes: its id, its digest, and the text that is shown once."""
    assert len(random) == ID_BYTES + SECRET_BYTES
    key_id, secret = _letters(random[:ID_BYTES]), _letters(random[ID_BYTES:])
    return key_id, digest(secret), f"{PREFIX}{key_id}_{secret}"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _letters(random: bytes) -> str:
    return base64.b32encode(random).decode("ascii").lower().rstrip("=")


_NOBODY = "0" * 64
