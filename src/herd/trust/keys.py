"""Creates API keys and checks presented ones against their stored digests.

A key is `herd_ID_SECRET`. The id selects the record, and the SHA-256 of the secret is compared in constant time. The
secret is not stored. It has 160 random bits, so a slow password hash would not add protection.
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
"""A longer text is not a key and is not hashed."""


class Scope(Enum):
    CHAT = "chat"
    EMBED = "embed"
    READ = "read"
    MODELS = "models"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key as it is stored. Times are Unix seconds; a limit or time of 0 means none."""

    id: str
    name: str
    digest: str
    """SHA-256 of the secret, in hex."""
    scopes: frozenset[Scope]
    created_at: float
    models: tuple[str, ...] = ()
    """Names or patterns (`llama*`) of the models that the key may use; empty for all."""
    labels: frozenset[str] = frozenset()
    """Labels that a node must have to serve the key's requests."""
    requests_per_minute: int = 0
    concurrent_max: int = 0
    tokens_per_month: int = 0
    expires_at: float = 0.0
    revoked_at: float = 0.0
    names_users: bool = False
    """Whether requests with this key may name their user, as those of a chat server do (`identity.py`)."""

    def is_valid(self, at: float) -> bool:
        return not self.revoked_at and (not self.expires_at or at < self.expires_at)

    def is_secret(self, secret: str) -> bool:
        """Compares in constant time."""
        return hmac.compare_digest(digest(secret), self.digest)

    def allows_model(self, name: str) -> bool:
        """`name` is the canonical model name."""
        return not self.models or name in self.models or any(fnmatchcase(name, pattern) for pattern in self.models)


def configured_key(key_id: str, name: str, secret: str) -> ApiKey | None:
    """A key from the settings, only for chat; None if the secret is empty."""
    return (
        ApiKey(id=key_id, name=name, digest=digest(secret), scopes=frozenset({Scope.CHAT}), created_at=0.0)
        if secret
        else None
    )


class Keyring:
    """All keys by id, also revoked ones. A new keyring replaces it when a key changes."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys: Mapping[str, ApiKey] = MappingProxyType({key.id: key for key in keys})

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def by_id(self, key_id: str, at: float) -> ApiKey | None:
        """The valid key with this id. The caller has been authenticated before."""
        key = self._keys.get(key_id)
        return key if key is not None and key.is_valid(at) else None

    def name_of(self, key_id: str) -> str:
        """The name of a key, also of a revoked one; of an unknown one its id."""
        key = self._keys.get(key_id)
        return key.name if key is not None and key.name else key_id

    def has_valid(self, at: float) -> bool:
        """Whether there is a valid key."""
        return any(key.is_valid(at) for key in self._keys.values())

    def find(self, presented: str, at: float) -> ApiKey | None:
        """The valid key for this text, or None. An unknown id takes as long as a wrong secret."""
        key_id, secret = split_key(presented)
        key = self._keys.get(key_id)
        is_same = hmac.compare_digest(digest(secret), key.digest if key is not None else _NO_DIGEST)
        return key if key is not None and is_same and key.is_valid(at) else None


def split_key(presented: str) -> tuple[str, str]:
    """Id and secret of a presented key; two empty strings if the text does not have our format."""
    if len(presented) > PRESENTED_MAX_CHARS or not presented.startswith(PREFIX):
        return "", ""
    key_id, _, secret = presented.removeprefix(PREFIX).partition("_")
    return key_id, secret


def has_key_prefix(presented: str) -> bool:
    """Whether the client presents a key of ours. Clients that require a key send a placeholder such as `ollama`."""
    return presented.startswith(PREFIX)


def create_key(random: bytes) -> tuple[str, str, str]:
    """A new key from `ID_BYTES + SECRET_BYTES` random bytes: its id, its digest, and the key, which is shown once."""
    assert len(random) == ID_BYTES + SECRET_BYTES
    key_id, secret = _base32(random[:ID_BYTES]), _base32(random[ID_BYTES:])
    return key_id, digest(secret), f"{PREFIX}{key_id}_{secret}"


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _base32(random: bytes) -> str:
    return base64.b32encode(random).decode("ascii").lower().rstrip("=")


_NO_DIGEST = "0" * 64
