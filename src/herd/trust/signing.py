"""Messages that only the two who share a key can have sent, each once. Knows no socket, clock or dice.

A node and its coordinator share a key (see `pairing.py`). The node signs with HMAC-SHA256 (RFC 2104) what it sends; the
coordinator's answer is signed over the same session and counter, so neither can be spoken for.

Freshness needs no clock: the coordinator hands out a random session, and within it the counter only rises. A session that
is offered stays the same until a message signed under it arrives, so that strangers who ask cannot push it away; a new one
ends the old. So what was recorded before a restart of either side is worth nothing after it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from herd.core.fleet import NodeId

SESSION_BYTES = 16
COUNTER_MAX = 1 << 62
NODES_MAX = 1024
"""Nodes with sessions; a fleet is far smaller."""

NODE_HEADER = "X-Fleet-Node"
SESSION_HEADER = "X-Fleet-Session"
COUNTER_HEADER = "X-Fleet-Counter"
SIGNATURE_HEADER = "X-Fleet-Signature"


class Verdict(Enum):
    GENUINE = "genuine"
    FORGED = "forged"
    STALE = "stale"
    """Another session is wanted: say which, and the node signs again."""
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What stands beside a message, in its headers."""

    node_id: NodeId
    session: str
    counter: int
    signature: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            NODE_HEADER: self.node_id, SESSION_HEADER: self.session, COUNTER_HEADER: str(self.counter),
            SIGNATURE_HEADER: self.signature,
        }  # fmt: skip


def stamp_in(header: Callable[[str], str | None]) -> Stamp | None:
    """The stamp among a message's headers; None where it is not whole."""
    node_id, session = header(NODE_HEADER), header(SESSION_HEADER)
    counter, signature = header(COUNTER_HEADER), header(SIGNATURE_HEADER)
    if node_id is None or session is None or counter is None or signature is None:
        return None
    if not (counter.isascii() and counter.isdigit() and len(counter) < 20 and int(counter) < COUNTER_MAX):
        return None
    return Stamp(NodeId(node_id), session, int(counter), signature)


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


def sealed(key: bytes, path: str, node_id: NodeId, session: str, counter: int, body: bytes) -> Stamp:
    """The stamp of a message to this path."""
    signed = signature(key, "message", path, node_id, session, str(counter), body)
    return Stamp(node_id, session, counter, signed)


def answer_signature(key: bytes, stamp: Stamp, status: int, body: bytes) -> str:
    """What proves that the answer to this message is the other side's own."""
    return signature(key, "answer", stamp.node_id, stamp.session, str(stamp.counter), str(status), body)


@dataclass(slots=True)
class _Heard:
    session: str = ""
    counter: int = -1
    offered: str = ""


class Sessions:
    """The side that hands out sessions: what it heard last of each node."""

    def __init__(self) -> None:
        self._heard: dict[NodeId, _Heard] = {}

    def offer(self, node_id: NodeId, random: bytes) -> str:
        """The session under which this node shall sign from now on. `random`: `SESSION_BYTES` unguessable bytes."""
        heard = self._of(node_id)
        heard.offered = heard.offered or random.hex()
        return heard.offered

    def check(self, key: bytes, path: str, stamp: Stamp, body: bytes) -> Verdict:
        """Whether this message is the node's own and new. Only a genuine one changes anything."""
        expected = sealed(key, path, stamp.node_id, stamp.session, stamp.counter, body)
        if not is_same(expected.signature, stamp.signature):
            return Verdict.FORGED
        heard = self._heard.get(stamp.node_id)
        if heard is None or not stamp.session or stamp.session not in (heard.session, heard.offered):
            return Verdict.STALE
        if stamp.session == heard.offered:
            heard.session, heard.offered, heard.counter = heard.offered, "", -1
        if stamp.counter <= heard.counter:
            return Verdict.REPLAYED
        heard.counter = stamp.counter
        return Verdict.GENUINE

    def forget(self, node_id: NodeId) -> None:
        self._heard.pop(node_id, None)

    def _of(self, node_id: NodeId) -> _Heard:
        """Only for nodes that are paired, so that strangers fill nothing."""
        heard = self._heard.get(node_id)
        if heard is None:
            if len(self._heard) >= NODES_MAX:
                del self._heard[next(iter(self._heard))]
            heard = self._heard[node_id] = _Heard()
        return heard


class Speaker:
    """The side that signs: its session and counter."""

    def __init__(self, node_id: NodeId, key: bytes) -> None:
        self.node_id = node_id
        self._key = key
        self._session = ""
        self._counter = 0

    def sign(self, path: str, body: bytes) -> Stamp:
        """A stamp that no message had before."""
        self._counter += 1
        return sealed(self._key, path, self.node_id, self._session, self._counter, body)

    def take(self, session: str) -> None:
        """Signs under this session from now on."""
        self._session, self._counter = session, 0

    def is_answer(self, stamp: Stamp, status: int, body: bytes, signed: str) -> bool:
        """Whether this answer is the coordinator's own, to the message with this stamp."""
        return is_same(answer_signature(self._key, stamp, status, body), signed)
