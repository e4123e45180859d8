"""Computes keys with X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869), from the package cryptography.

`pairing` imports this file only while a key is made, because the package needs 7 MB.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def public_of(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared_key(private: bytes, other_public: bytes, size_bytes: int, salt: bytes, context: bytes) -> bytes | None:
    """None for a point of small order: the result would not depend on our key."""
    try:
        other = X25519PublicKey.from_public_bytes(other_public)
        secret = X25519PrivateKey.from_private_bytes(private).exchange(other)
    except ValueError:
        return None
    return HKDF(hashes.SHA256(), size_bytes, salt=salt, info=context).derive(secret)
