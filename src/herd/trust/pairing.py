"""Establishes the key that a node and a fleet share, with a join code or by a person's approval.

Both sides have an X25519 key pair (RFC 7748). The shared key is derived with HKDF-SHA256 (RFC 5869) from the key
exchange, both public keys and the code. It is never sent.

    join code   both sides prove that they know the code. An eavesdropper learns nothing; a man in the middle would have
                to guess 80 bits within the ten minutes that the code is valid.
    approval    both sides show the same short fingerprint of the two public keys. Comparing them before approval
                excludes a man in the middle.

On the coordinator's own machine the code is in a file that only its user can read, so no code has to be pasted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module

from herd.addresses import address_group
from herd.bounded import BoundedDict
from herd.core.state.fleet import NodeId
from herd.trust.signing import is_same, signature

KEY_BYTES = 32
CODE_BYTES = 10
CODE_LIFE_S = 600.0
CODES_MAX = 16
"""Valid codes at the same time; a further code ends the oldest."""
PENDING_MAX = 64
"""Maximum number of pending nodes; a further node replaces one of the network that has the most."""
PENDING_PER_ADDRESS_MAX = 4
"""Maximum number of pending nodes of one address."""
PENDING_LIFE_S = 600.0
"""A pending node that has not asked for this time is dropped."""
NODE_NAME_MAX_CHARS = 64

_KEY_EXCHANGE = "herd.trust.key_exchange"
"""Imported only while a key is made: the package cryptography needs 7 MB."""
_CODE = re.compile(r"(?:(?P<address>[\w.\-\[\]:]{1,255})/)?(?P<code>[A-Za-z2-7]{4}(?:-?[A-Za-z2-7]{4}){3})", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Invitation:
    """A join code with the coordinator's host and port. An empty address means that the agent has to find it."""

    code: str
    address: str = ""

    @property
    def text(self) -> str:
        """The invitation as a person pastes it."""
        grouped = "-".join(self.code[at : at + 4] for at in range(0, len(self.code), 4))
        return f"{self.address}/{grouped}" if self.address else grouped


def create_invitation(random: bytes, address: str = "") -> Invitation:
    """An invitation with a new code from `CODE_BYTES` random bytes."""
    assert len(random) == CODE_BYTES
    return Invitation(base64.b32encode(random).decode("ascii"), address)


def parse_invitation(text: str) -> Invitation | None:
    """Reads a pasted invitation, in any case and with or without dashes; None if the text is not one."""
    match = _CODE.fullmatch(text.strip())
    if match is None:
        return None
    return Invitation(match["code"].replace("-", "").upper(), match["address"] or "")


def public_of(private: bytes) -> str:
    """The public key, in hex, of a private key of `KEY_BYTES` random bytes."""
    public: bytes = import_module(_KEY_EXCHANGE).public_of(private)
    return public.hex()


def shared_key(private: bytes, other_public: str, node_public: str, fleet_public: str, code: str) -> bytes | None:
    """The shared key of this node and this fleet; None if `other_public` is not a valid key. `code` may be empty."""
    if not is_public_key(other_public):
        return None
    context = f"herd node key 1|{node_public}|{fleet_public}".encode()
    key: bytes | None = import_module(_KEY_EXCHANGE).shared_key(
        private, bytes.fromhex(other_public), KEY_BYTES, code.encode(), context
    )
    return key


def is_public_key(text: str) -> bool:
    return _HEX.fullmatch(text) is not None


def fingerprint(node_public: str, fleet_public: str) -> str:
    """Sixteen letters in groups of four (80 bits), the same on both sides for the same two public keys."""
    digest = hashlib.sha256(f"herd fingerprint 1|{node_public}|{fleet_public}".encode()).digest()
    letters = base64.b32encode(digest[:CODE_BYTES]).decode("ascii")
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def fleet_id(fleet_public: str) -> str:
    """A short public id of a fleet for mDNS and logs: sixteen hex digits."""
    return hashlib.sha256(f"herd fleet 1|{fleet_public}".encode()).hexdigest()[:16]


def code_proof(code: str, node_name: str, node_public: str) -> str:
    """Proves that the node knows the code, without revealing it."""
    return signature(code.encode(), "join", node_name, node_public)


def joined_proof(key: bytes, fleet_public: str, node_id: NodeId) -> str:
    """Proves to the node that the fleet has derived the same key, for the name that the fleet assigned."""
    return signature(key, "joined", fleet_public, node_id)


class JoinCodes:
    """The join codes that are still valid, with the time at which each expires."""

    def __init__(self) -> None:
        self._ends = BoundedDict[str, float](CODES_MAX)

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, code: str, at: float) -> None:
        self._drop_expired(at)
        self._ends[code] = at + CODE_LIFE_S

    def revoke_all(self) -> None:
        """A removed node must not join again with a code that is still valid."""
        self._ends.clear()

    def find(self, proof: str, node_name: str, node_public: str, at: float, local_code: str = "") -> str:
        """The valid code that this proof was made with; empty if there is none. `local_code` never expires."""
        self._drop_expired(at)
        known = [*self._ends, local_code] if local_code else list(self._ends)
        matching = [code for code in known if is_same(code_proof(code, node_name, node_public), proof)]
        return matching[0] if matching else ""

    def _drop_expired(self, at: float) -> None:
        for code in [code for code, ends_at in self._ends.items() if ends_at <= at]:
            del self._ends[code]


@dataclass(frozen=True, slots=True)
class PendingNode:
    """A node that asked to join without a code."""

    name: str
    public: str
    ip: str
    since: float
    """Unix time of its first request."""
    asked_at: float = 0.0
    """Loop time of its last request; agents repeat it with each heartbeat."""


class PendingNodes:
    """The nodes that wait for approval, by public key: any machine can claim a name, but not a key.

    A node that stops asking is dropped. If the list is full, a new node replaces one of the network that has the most
    nodes on it: of these, the one that has not asked for the longest time.
    """

    def __init__(self) -> None:
        self._pending: dict[str, PendingNode] = {}
        self._approved = BoundedDict[str, PendingNode](PENDING_MAX)

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingNode]:
        """The nodes in a copy: requests to join run in other threads."""
        return iter(tuple(self._pending.values()))

    def add(self, node: PendingNode) -> bool:
        """Whether the node is on the list now. A node that was on it before keeps its time and position."""
        self.drop_old(node.asked_at)
        known = self._pending.get(node.public)
        if known is None:
            if sum(other.ip == node.ip for other in self) >= PENDING_PER_ADDRESS_MAX:
                return False
            if len(self._pending) >= PENDING_MAX:
                self._drop_one()
        since = known.since if known is not None else node.since
        self._pending[node.public] = replace(node, since=since)
        return True

    def drop_old(self, at: float) -> None:
        """Drops the nodes that no longer ask."""
        for node in self:
            if at - node.asked_at >= PENDING_LIFE_S:
                self._pending.pop(node.public, None)

    def _drop_one(self) -> None:
        counts = Counter(address_group(node.ip) for node in self)
        last = min(self, key=lambda node: (-counts[address_group(node.ip)], node.asked_at))
        self._pending.pop(last.public, None)

    def find(self, name_or_fingerprint: str, fleet_public: str) -> list[PendingNode]:
        """One node by its fingerprint, or all nodes with this name."""
        wanted = name_or_fingerprint.strip()
        by_fingerprint = [node for node in self if fingerprint(node.public, fleet_public) == wanted.upper()]
        return by_fingerprint or [node for node in self if node.name == wanted]

    def approve(self, public: str) -> None:
        """The node joins with its next request."""
        node = self._pending.pop(public, None)
        if node is not None:
            self._approved[public] = node

    def reject(self, public: str) -> None:
        self._pending.pop(public, None)
        self._approved.pop(public, None)

    def take_approved(self, public: str) -> bool:
        """Whether this key was approved and has not joined yet. The approval can be used once."""
        return self._approved.pop(public, None) is not None
