"""Signs and verifies the messages between a node and its coordinator, and rejects replayed ones.

A node and its coordinator share a key (see `pairing.py`). The node signs each message with HMAC-SHA256 (RFC 2104).
The coordinator signs its answer over the same session and counter, so neither side can be impersonated.

Replay protection does not use a clock. The coordinator derives a session from a secret of its process, the node's name
and the node's boot id; within a session the counter only rises. A message that was recorded before a restart of either
side is rejected after it. Other machines cannot displace a session. Two copies of a machine have separate sessions.
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
"""Sessions whose counters are stored; one more, and every node has to start a new session."""

NODE_HEADER = "X-Fleet-Node"
BOOT_HEADER = "X-Fleet-Boot"
SESSION_HEADER = "X-Fleet-Session"
COUNTER_HEADER = "X-Fleet-Counter"
SIGNATURE_HEADER = "X-Fleet-Signature"


class Verification(Enum):
    GENUINE = "genuine"
    FORGED = "forged"
    STALE = "stale"
    """The message has an old session: send the node the current one, and it signs again."""
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The signature of a message and the values it covers, sent as headers. Names are percent-encoded in headers."""

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


def read_stamp(header: Callable[[str], str | None]) -> Stamp | None:
    """The stamp from a message's headers; None if it is incomplete or invalid."""
    node_id, boot_id, session = header(NODE_HEADER), header(BOOT_HEADER), header(SESSION_HEADER)
    counter, signed = header(COUNTER_HEADER), header(SIGNATURE_HEADER)
    if node_id is None or boot_id is None or session is None or counter is None or signed is None:
        return None
    if not (counter.isascii() and counter.isdigit() and len(counter) < 20 and int(counter) < COUNTER_MAX):
        return None
    return Stamp(NodeId(unquote(node_id)), unquote(boot_id), session, int(counter), signed)


def signature(key: bytes, *parts: str | bytes) -> str:
    """HMAC-SHA256 in hex over the parts, each after its length, so that different lists have different signatures."""
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        mac.update(len(raw).to_bytes(8, "big"))
        mac.update(raw)
    return mac.hexdigest()


def is_same(one: str, other: str) -> bool:
    """Compares two signatures in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def sign_message(
    key: bytes, path: str, node_id: NodeId, boot_id: str, session: str, counter: int, body: bytes
) -> Stamp:
    """The stamp of a message that is sent to this path."""
    signed = signature(key, "message", path, node_id, boot_id, session, str(counter), body)
    return Stamp(node_id, boot_id, session, counter, signed)


def answer_signature(key: bytes, stamp: Stamp, status: int, body: bytes) -> str:
    """The coordinator's signature of its answer to the message with this stamp."""
    return signature(key, "answer", stamp.node_id, stamp.boot_id, stamp.session, str(stamp.counter), str(status), body)


def forwarder_proof(key: bytes, pin: str) -> str:
    """The first bytes that the coordinator sends to a node's forwarder with this certificate."""
    return signature(key, "door", pin)


class Sessions:
    """The coordinator's side: derives sessions and stores the last counter of each.

    `secrets` returns `SECRET_BYTES` new random bytes at each call.
    """

    def __init__(self, secrets: Callable[[], bytes]) -> None:
        self._secrets = secrets
        self._secret = secrets()
        self._last_counters: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._last_counters)

    def session_for(self, key: bytes, node_id: NodeId, boot_id: str) -> str:
        """The session of this boot of this node. It changes when the node joins again, because the key changes."""
        return signature(self._secret, "session", node_id, boot_id, key)

    def verify(self, key: bytes, path: str, stamp: Stamp, body: bytes) -> Verification:
        """Whether the node sent this message and it is new. Only a genuine message changes the stored counters."""
        expected = sign_message(key, path, stamp.node_id, stamp.boot_id, stamp.session, stamp.counter, body)
        if not is_same(expected.signature, stamp.signature):
            return Verification.FORGED
        if not is_same(stamp.session, self.session_for(key, stamp.node_id, stamp.boot_id)):
            return Verification.STALE
        if stamp.counter <= self._last_counters.get(stamp.session, -1):
            return Verification.REPLAYED
        if stamp.session not in self._last_counters and len(self._last_counters) >= SESSIONS_MAX:
            self._secret = self._secrets()
            self._last_counters.clear()
            return Verification.STALE
        self._last_counters[stamp.session] = stamp.counter
        return Verification.GENUINE


class Signer:
    """The node's side: signs messages with its session and counter."""

    def __init__(self, node_id: NodeId, boot_id: str, key: bytes, counter: int = 0) -> None:
        """`counter`: the last counter of the previous signer of this boot."""
        self.node_id = node_id
        self.boot_id = boot_id
        self.counter = counter
        self._key = key
        self._session = ""

    def sign(self, path: str, body: bytes) -> Stamp:
        """A stamp with a counter that this boot has not used before."""
        self.counter += 1
        return sign_message(self._key, path, self.node_id, self.boot_id, self._session, self.counter, body)

    def use_session(self, session: str) -> None:
        self._session = session

    def is_genuine_answer(self, stamp: Stamp, status: int, body: bytes, signed: str) -> bool:
        """Whether the coordinator sent this answer to the message with this stamp."""
        return is_same(answer_signature(self._key, stamp, status, body), signed)
