"""Messages that only the two who share a key can have sent, each once. Knows no socket, clock or dice.

A node and its coordinator share a key (see `pairing.py`). The node signs with HMAC-SHA256 (RFC 2104) what it sends; the
coordinator's answer is signed over the same session and counter, so neither can be spoken for.

Freshness needs no clock: the coordinator names a session that follows from a secret of its process, the node's name and
the node's boot, and within a session the counter only rises. So what was recorded before a restart of either side is
worth nothing after it, strangers who ask for sessions fill and push out nothing, and two machines that are copies of each
other have a session each.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import quote, unquote

from herd.core.state.fleet import NodeId

SECRET_BYTES = 32
COUNTER_MAX = 1 << 62
SESSIONS_MAX = 4096
"""Boots of nodes whose counters are remembered; one more, and every node is asked to begin a new session."""

NODE_HEADER = "X-Fleet-Node"
BOOT_HEADER = "X-Fleet-Boot"
SESSION_HEADER = "X-Fleet-Session"
COUNTER_HEADER = "X-Fleet-Counter"
SIGNATURE_HEADER = "X-Fleet-Signature"


class Verification(Enum):
    GENUINE = "genuine"
    FORGED = "forged"
    STALE = "stale"
    """Another session is wanted: say which, and the node signs again."""
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What stands beside a message, in its headers; names with other letters than headers can hold are quoted there."""

    node_id: NodeId
    boot_id: str
    session: str
    counter: int
    signature: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            NODE_HEADER: quote(self.node_id, safe=""),
            BOOT_HEADER: quote(self.boot_id, safe=""),
            SESSION_HEADER: self.session,
            COUNTER_HEADER: str(self.counter),
            SIGNATURE_HEADER: self.signature,
        }


def stamp_in(header: Callable[[str], str | None]) -> Stamp | None:
    """The stamp among a message's headers; None where it is not whole."""
    node_id, boot_id, session = header(NODE_HEADER), header(BOOT_HEADER), header(SESSION_HEADER)
    counter, signed = header(COUNTER_HEADER), header(SIGNATURE_HEADER)
    if node_id is None or boot_id is None or session is None or counter is None or signed is None:
        return None
    if not (counter.isascii() and counter.isdigit() and len(counter) < 20 and int(counter) < COUNTER_MAX):
        return None
    return Stamp(NodeId(unquote(node_id)), unquote(boot_id), session, int(counter), signed)


def signature(key: bytes, *parts: str | bytes) -> str:
    """HMAC-SHA256 in hex over the parts, each with its length before it, so that no two lists of parts sign alike."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        mac.update(len(raw).to_bytes(8, "big"))
        mac.update(raw)
    return mac.hexdigest()


def is_same(one: str, other: str) -> bool:
    """Whether two signatures are equal, in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def sealed(key: bytes, path: str, node_id: NodeId, boot_id: str, session: str, counter: int, body: bytes) -> Stamp:
    """The stamp of a message to this path."""
    signed = signature(key, "message", path, node_id, boot_id, session, str(counter), body)
    return Stamp(node_id, boot_id, session, counter, signed)


def answer_signature(key: bytes, stamp: Stamp, status: int, body: bytes) -> str:
    """What proves that the answer to this message is the other side's own."""
    return signature(key, "answer", stamp.node_id, stamp.boot_id, stamp.session, str(stamp.counter), str(status), body)


def forwarder_proof(key: bytes, pin: str) -> str:
    """What the coordinator says first at a node's door that shows this certificate, which nobody else has the key of."""
    return signature(key, "door", pin)


class Sessions:
    """The side that names sessions, and what it heard last in each. `secrets`: `SECRET_BYTES` unguessable bytes a call."""

    def __init__(self, secrets: Callable[[], bytes]) -> None:
        self._secrets = secrets
        self._secret = secrets()
        self._heard: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def name(self, key: bytes, node_id: NodeId, boot_id: str) -> str:
        """The session under which this boot of this node signs; another when it has joined anew."""
        return signature(self._secret, "session", node_id, boot_id, key)

    def check(self, key: bytes, path: str, stamp: Stamp, body: bytes) -> Verification:
        """Whether this message is the node's own and new. Only a genuine one changes anything."""
        expected = sealed(key, path, stamp.node_id, stamp.boot_id, stamp.session, stamp.counter, body)
        if not is_same(expected.signature, stamp.signature):
            return Verification.FORGED
        if not is_same(stamp.session, self.name(key, stamp.node_id, stamp.boot_id)):
            return Verification.STALE
        if stamp.counter <= self._heard.get(stamp.session, -1):
            return Verification.REPLAYED
        if stamp.session not in self._heard and len(self._heard) >= SESSIONS_MAX:
            self._secret = self._secrets()
            self._heard.clear()
            return Verification.STALE
        self._heard[stamp.session] = stamp.counter
        return Verification.GENUINE


class Signer:
    """The side that signs: its session and counter."""

    def __init__(self, node_id: NodeId, boot_id: str, key: bytes, counter: int = 0) -> None:
        """`counter`: where an earlier speaker of this boot stopped."""
        self.node_id = node_id
        self.boot_id = boot_id
        self.counter = counter
        self._key = key
        self._session = ""

    def sign(self, path: str, body: bytes) -> Stamp:
        """A stamp that no message of this boot had before."""
        self.counter += 1
        return sealed(self._key, path, self.node_id, self.boot_id, self._session, self.counter, body)

    def take(self, session: str) -> None:
        """Signs under this session from now on."""
        self._session = session

    def is_answer(self, stamp: Stamp, status: int, body: bytes, signed: str) -> bool:
        """Whether this answer is the coordinator's own, to the message with this stamp."""
        return is_same(answer_signature(self._key, stamp, status, body), signed)
