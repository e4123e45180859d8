"""How a node and a fleet come to share a key: by a code that a person pasted, or by a person's approval. Knows no socket.

Both sides have an X25519 key (RFC 7748); what they compute from each other's public half goes through HKDF-SHA256
(RFC 5869) with everything that was said. The key itself never travels.

    with a code     the node proves that it knows the code, the fleet that it knows it too; a listener learns nothing, and
                    one in the middle would have to guess 80 bits within the code's ten minutes
    by approval     both sides show the same short fingerprint of the two public keys; who compares them before
                    approving has excluded one in the middle

On the coordinator's own machine the code is a file that only its user can read: nothing has to be pasted there.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from herd.core.state.fleet import NodeId
from herd.trust.signing import is_same, signature

KEY_BYTES = 32
CODE_BYTES = 10
CODE_LIFE_S = 600.0
CODES_MAX = 16
"""Codes that are open at the same time; the oldest ends when another is made."""
PENDING_MAX = 64
"""Nodes that wait for approval; more are turned away until somebody decided."""
NODE_NAME_MAX_CHARS = 64

_CODE = re.compile(r"(?:(?P<place>[\w.\-\[\]:]{1,255})/)?(?P<code>[A-Za-z2-7]{4}(?:-?[A-Za-z2-7]{4}){3})", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a person pastes: the code, and where the fleet is (empty: found by itself)."""

    code: str
    place: str = ""

    @property
    def text(self) -> str:
        grouped = "-".join(self.code[at : at + 4] for at in range(0, len(self.code), 4))
        return f"{self.place}/{grouped}" if self.place else grouped


def invitation(random: bytes, place: str = "") -> Invitation:
    """A new code from `CODE_BYTES` random bytes. `place`: the coordinator's host and port."""
    assert len(random) == CODE_BYTES
    return Invitation(base64.b32encode(random).decode("ascii"), place)


def read_invitation(text: str) -> Invitation | None:
    """What somebody pasted, forgiving case, dashes and space around it; None for what is no code."""
    found = _CODE.fullmatch(text.strip())
    if found is None:
        return None
    return Invitation(found["code"].replace("-", "").upper(), found["place"] or "")


def public_of(private: bytes) -> str:
    """The public half, in hex, of `KEY_BYTES` random bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def shared_key(private: bytes, other_public: str, node_public: str, fleet_public: str, code: str) -> bytes | None:
    """The key of this node and this fleet; None when the other's public half is no such thing. `code` may be empty."""
    if _HEX.fullmatch(other_public) is None:
        return None
    try:
        other = X25519PublicKey.from_public_bytes(bytes.fromhex(other_public))
        secret = X25519PrivateKey.from_private_bytes(private).exchange(other)
    except ValueError:  # a point of small order: the outcome would not depend on our key
        return None
    told = f"herd node key 1|{node_public}|{fleet_public}".encode()
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=code.encode(), info=told).derive(secret)


def fingerprint(node_public: str, fleet_public: str) -> str:
    """Sixteen letters in groups of four that both sides show for the same two keys: 80 bits."""
    told = hashlib.sha256(f"herd fingerprint 1|{node_public}|{fleet_public}".encode()).digest()
    letters = base64.b32encode(told[:CODE_BYTES]).decode("ascii")
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def fleet_id(fleet_public: str) -> str:
    """A short public name of a fleet, for mDNS and logs: sixteen hex digits."""
    return hashlib.sha256(f"herd fleet 1|{fleet_public}".encode()).hexdigest()[:16]


def code_proof(code: str, node_name: str, node_public: str) -> str:
    """What shows that the node knows the code, without showing the code."""
    return signature(code.encode(), "join", node_name, node_public)


def joined_proof(key: bytes, fleet_public: str, node_id: NodeId) -> str:
    """What shows the node that the fleet has computed the same key, under the name it was given."""
    return signature(key, "joined", fleet_public, node_id)


class JoinCodes:
    """The codes that may still be used."""

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def open(self, code: str, at: float) -> None:
        self._drop_old(at)
        if len(self._ends) >= CODES_MAX:
            del self._ends[next(iter(self._ends))]
        self._ends[code] = at + CODE_LIFE_S

    def close_all(self) -> None:
        """Whoever was removed must not come back with a code that is still open."""
        self._ends.clear()

    def proved(self, proof: str, node_name: str, node_public: str, at: float, local_code: str = "") -> str:
        """The open code that this proof was made with, or empty. `local_code` is open for ever, where the caller says so."""
        self._drop_old(at)
        known = [*self._ends, local_code] if local_code else list(self._ends)
        matching = [code for code in known if is_same(code_proof(code, node_name, node_public), proof)]
        return matching[0] if matching else ""

    def _drop_old(self, at: float) -> None:
        for code in [code for code, ends_at in self._ends.items() if ends_at <= at]:
            del self._ends[code]


@dataclass(frozen=True, slots=True)
class PendingNode:
    """A node that asked to join without a code, as the coordinator shows it to its owner."""

    name: str
    public: str
    ip: str
    since: float


class PendingNodes:
    """Who waits for approval, by public key: a name can be claimed by anybody, the key decides."""

    def __init__(self) -> None:
        self._waiting: dict[str, PendingNode] = {}
        self._approved: dict[str, PendingNode] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[PendingNode]:
        return iter(self._waiting.values())

    def apply(self, applicant: PendingNode) -> bool:
        """Whether it is on the list now. Who is on it already keeps its place."""
        known = self._waiting.get(applicant.public)
        if known is None and len(self._waiting) >= PENDING_MAX:
            return False
        since = known.since if known is not None else applicant.since
        self._waiting[applicant.public] = replace(applicant, since=since)
        return True

    def named(self, name_or_fingerprint: str, fleet_public: str) -> list[PendingNode]:
        """Those that are meant: one by its fingerprint, all by a name that several may claim."""
        wanted = name_or_fingerprint.strip()
        by_print = [one for one in self if fingerprint(one.public, fleet_public) == wanted.upper()]
        return by_print or [one for one in self if one.name == wanted]

    def approve(self, public: str) -> None:
        """It gets in when it asks next."""
        applicant = self._waiting.pop(public, None)
        if applicant is not None:
            if len(self._approved) >= PENDING_MAX:
                del self._approved[next(iter(self._approved))]
            self._approved[public] = applicant

    def reject(self, public: str) -> None:
        self._waiting.pop(public, None)
        self._approved.pop(public, None)

    def take_approved(self, public: str) -> bool:
        """Whether this key was approved and had not come in yet."""
        return self._approved.pop(public, None) is not None
