"""Pairs nodes with the fleet and verifies the signatures and addresses of their reports.

    unknown --join code, or a shared data folder--> paired        paired --removed by an admin--> unknown
    unknown --no code--> pending --approved by an admin--> paired

A paired node signs every message (`trust/signing.py`), including its own addresses. A message must come from one of
them, so that a machine in between cannot redirect requests to itself.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import count
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

from herd.addresses import parse_address, plain_address
from herd.agent_protocol.join import JoinAnswer, JoinRequest
from herd.bounded import BoundedDict
from herd.coordinator.storage.credential_store import ApprovedAddress, CredentialStore, PairedNode
from herd.core.state.fleet import Fleet, Liveness, NodeId
from herd.errors import BadRequest, HerdError
from herd.trust import pairing, signing
from herd.trust.addresses import node_address_problem
from herd.trust.logins import LoginAttempts
from herd.trust.pairing import Invitation, JoinCodes, PendingNode, PendingNodes
from herd.trust.signing import Sessions, Stamp, Verification

log = logging.getLogger("herd.membership")

ADDRESSES_MAX = 32
FORWARDERS_MAX = 4096
NODE_ADDRESSES_MAX = 4096
WRONG_CODES_MAX = 30
"""Wrong join codes of one address in a minute. An agent with two old codes sends 24."""
STRANGERS_LOGGED_MAX = 20
"""Log lines in a minute about machines outside the fleet."""
_INVITE = "on the coordinator run: herd nodes invite"
_INVALID: Mapping[Verification, str] = MappingProxyType(
    {
        Verification.FORGED: "the signature of the message is invalid",
        Verification.REPLAYED: "the coordinator has already received this message",
    }
)


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Which machines may join the fleet."""

    open: bool = field(
        default=False, metadata={"env": "FLEET_OPEN", "help": "Accept any node without pairing (insecure)."}
    )
    networks: tuple[str, ...] = field(
        default=(),
        metadata={
            "env": "FLEET_NETWORKS",
            "help": "Networks, besides the private ones, where nodes may be, e.g. 203.0.113.0/24.",
        },
    )

    def __post_init__(self) -> None:
        for network in self.networks:
            try:
                ip_network(network, strict=False)
            except ValueError as error:
                raise ValueError(f"FLEET_NETWORKS: {error}") from error


class NodeNotPaired(HerdError):
    """The sender is not paired, or its identity could not be verified."""

    status = 401
    code = "not_paired"


class TooManyJoins(HerdError):
    """This address has asked to join too often."""

    status = 429
    code = "too_many_joins"


class NewSessionRequired(HerdError):
    """A paired node has to sign with a new session. This is not an error of the node."""

    status = 401
    code = "new_session"

    def __init__(self, session: str) -> None:
        super().__init__("sign with the session in this answer")
        self.session = session


@dataclass(frozen=True, slots=True)
class Reporter:
    """The sender of a message: a paired node, or any machine in an open fleet."""

    node_id: NodeId | None
    stamp: Stamp | None = None
    key: bytes = b""

    def answer_headers(self, status: int, body: bytes) -> dict[str, str]:
        """The signature that proves to the node that the coordinator sent this answer."""
        if self.stamp is None:
            return {}
        return {signing.SIGNATURE_HEADER: signing.answer_signature(self.key, self.stamp, status, body)}


UNSIGNED = Reporter(None)


@dataclass(frozen=True, slots=True)
class UnsignedNode:
    """An agent of ollama-herd, which cannot sign, as it waits for approval. `since` is in Unix seconds."""

    name: str
    ip: str
    since: float


class Membership:
    def __init__(
        self,
        credentials: CredentialStore,
        settings: MembershipSettings,
        fleet: Fleet,
        secrets: Callable[[int], bytes],
        now: Callable[[], float],
        unix_s: Callable[[], float],
    ) -> None:
        self.credentials = credentials
        self.settings = settings
        self.pending_nodes = PendingNodes()
        self.codes = JoinCodes()
        self.unsigned = BoundedDict[str, UnsignedNode](pairing.PENDING_MAX)
        """By address."""
        self._fleet = fleet
        self._secrets = secrets
        self._now = now
        self._unix_s = unix_s
        self._logged = BoundedDict[str, None](pairing.PENDING_MAX)
        """The pending nodes that were already logged: fingerprints, or names with addresses."""
        self._join_lock = threading.Lock()
        self._wrong_codes = LoginAttempts(WRONG_CODES_MAX)
        self._strangers_logged = LoginAttempts(STRANGERS_LOGGED_MAX)
        """Counts log lines that machines outside the fleet cause."""
        self._forwarder_proofs = BoundedDict[str, str](FORWARDERS_MAX)
        self._allowed_urls = BoundedDict[str, None](FORWARDERS_MAX)
        """Engine URLs without a forwarder that were already checked: every heartbeat repeats them."""
        self._node_addresses = BoundedDict[str, None](NODE_ADDRESSES_MAX)
        self._sessions = Sessions(lambda: secrets(signing.SECRET_BYTES))

    # --- reports ---

    def check(self, header: Callable[[str], str | None], path: str, query: str, body: bytes, ip: str) -> Reporter:
        """The sender of this message. Raises `NodeNotPaired` or `NewSessionRequired`, also for a replayed message."""
        stamp = signing.read_stamp(header)
        if stamp is None:
            if self.settings.open or self._has_approved(plain_address(ip)):
                return UNSIGNED
            raise NodeNotPaired(f"this node is not paired with the fleet; {_INVITE}, then run the printed command here")
        node = self.credentials.nodes.get(stamp.node_id)
        if node is None:
            raise NodeNotPaired(f"this node was removed from the fleet or belongs to another one; {_INVITE}")
        key = bytes.fromhex(node.key)
        verification = self._sessions.verify(key, f"{path}?{query}" if query else path, stamp, body)
        if verification is Verification.STALE:
            raise NewSessionRequired(self._sessions.session_for(key, stamp.node_id, stamp.boot_id))
        if verification is not Verification.GENUINE:
            if self._may_log():
                log.warning(
                    "a message with an invalid signature was ignored",
                    extra={"node_id": stamp.node_id, "ip": ip, "verdict": verification.value},
                )
            raise NodeNotPaired(_INVALID[verification])
        _check_address(query, ip)
        self._node_addresses[plain_address(ip)] = None
        return Reporter(stamp.node_id, stamp, key)

    def is_node_address(self, ip: str) -> bool:
        """Whether a paired node has reported from this address since the start."""
        return plain_address(ip) in self._node_addresses

    def check_engine_urls(self, urls: Iterable[str], reporter: Reporter = UNSIGNED) -> None:
        """Checks that the coordinator may connect to these engines (http://ADDRESS:PORT, https://ADDRESS:PORT#PIN).

        For a forwarder with TLS, the coordinator's proof is derived from the key that signed the report, so only a
        paired node can have one. Raises `NodeNotPaired`.
        """
        for url in urls:
            if url in self._allowed_urls:
                continue
            parts = urlsplit(url)
            if parts.scheme == "https":
                if reporter.node_id is None:
                    raise NodeNotPaired(f"engine forwarders with TLS need a paired node; {_INVITE}")
                self._remember_proof(url, signing.forwarder_proof(reporter.key, parts.fragment))
            problem = node_address_problem(parts.hostname or "", parts.port or 0, self.settings.networks)
            if problem:
                raise NodeNotPaired(f"engine address {url[:100]} is not allowed: {problem}", code="wrong_address")
            if parts.scheme != "https":
                self._allowed_urls[url] = None

    def forwarder_proof(self, url: str) -> str:
        """The proof that the coordinator sends first to this forwarder; empty if no node has announced it."""
        return self._forwarder_proofs.get(url, "")

    def _remember_proof(self, url: str, proof: str) -> None:
        self._forwarder_proofs[url] = proof
        self._forwarder_proofs.move_to_end(url)

    def _has_approved(self, ip: str) -> bool:
        return any(address == ip for address, _ in self.credentials.addresses)

    def unsigned_name(self, node_id: NodeId, ip: str) -> NodeId | None:
        """The name of the node that sends unsigned reports with this name from this address; None if it may not.

        The name of a paired node is not free, and in a fleet that is not open the sender must have been approved.
        """
        approved = self.credentials.addresses.get((plain_address(ip), node_id))
        if approved is None and not self.settings.open:
            return None
        name = NodeId(approved.node_id) if approved is not None else node_id
        return name if name not in self.credentials.nodes else None

    # --- agents that cannot sign ---

    def note_unsigned(self, name: str, ip: str) -> bool:
        """Notes an agent of ollama-herd that waits for approval. Whether it is new and should be logged."""
        address = plain_address(ip)
        known = self.unsigned.get(address)
        since = known.since if known is not None and known.name == name else self._unix_s()
        self.unsigned[address] = UnsignedNode(name, address, since)
        sender = f"{name} at {address}"
        if sender in self._logged or not self._may_log():
            return False
        self._logged[sender] = None
        return True

    def find_unsigned(self, name_or_address: str) -> list[UnsignedNode]:
        """The agents that wait for approval with this address, or with this name."""
        by_address = self.unsigned.get(plain_address(name_or_address.strip()))
        return [by_address] if by_address else [one for one in self.unsigned.values() if one.name == name_or_address]

    def approve_address(self, node: UnsignedNode) -> NodeId:
        """The name of the node: the reported one, or with a number behind it if another node has that name.

        Raises `CredentialStoreFull` and `OSError`.
        """
        taken = {*self.credentials.nodes, *(one.node_id for one in self.credentials.addresses.values())}
        name = next(name for name in _names(node.name) if name not in taken and self._is_free(name, ""))
        reported = node.name if name != node.name else ""
        self.credentials.put_address(ApprovedAddress(node.ip, name, self._unix_s(), reported))
        self.unsigned.pop(node.ip, None)
        self._logged.pop(f"{node.name} at {node.ip}", None)
        return name

    # --- joining ---

    def invite(self, address: str) -> Invitation:
        """A join code that is valid for ten minutes."""
        invitation = pairing.create_invitation(self._secrets(pairing.CODE_BYTES), address)
        self.codes.add(invitation.code, self._now())
        return invitation

    def join(self, request: JoinRequest, ip: str) -> JoinAnswer:
        """Raises `BadRequest`, `NodeNotPaired` for an invalid code, `TooManyJoins`, `CredentialStoreFull`, `OSError`.

        May be called from any thread.
        """
        with self._join_lock:
            return self._join(request, ip)

    def _join(self, request: JoinRequest, ip: str) -> JoinAnswer:
        if not 0 < len(request.name) <= pairing.NODE_NAME_MAX_CHARS or not request.name.isprintable():
            raise BadRequest(f"a node's name must have 1 to {pairing.NODE_NAME_MAX_CHARS} printable characters")
        if not request.proof:
            return self._join_by_approval(request, ip)
        # Only a user of this machine can read the file with the local code, so the sender's address does not matter.
        local = self.credentials.local_code
        now = self._now()
        wait_s = self._wrong_codes.wait_s(ip, now)
        code = self.codes.find(request.proof, request.name, request.public, now, local)
        if wait_s and code != local:
            raise TooManyJoins(f"more than {WRONG_CODES_MAX} wrong join codes from {ip}", retry_after_s=wait_s)
        if not code:
            self._wrong_codes.record_failure(ip, now)
            raise NodeNotPaired(f"the join code is invalid or older than ten minutes; {_INVITE}", code="wrong_code")
        return self._paired(request, code, "this machine" if code == local else "code")

    def _join_by_approval(self, request: JoinRequest, ip: str) -> JoinAnswer:
        if self.settings.open and request.name not in self.credentials.nodes:
            return JoinAnswer("open", self.credentials.public)
        if self.pending_nodes.take_approved(request.public):
            return self._paired(request, "", "approved")
        if (
            pairing.shared_key(self.credentials.private, request.public, request.public, self.credentials.public, "")
            is None
        ):
            raise BadRequest("invalid public key")
        if not self.pending_nodes.add(PendingNode(request.name, request.public, ip, self._unix_s(), self._now())):
            message = f"{pairing.PENDING_PER_ADDRESS_MAX} nodes with the address {ip} are already waiting for approval"
            raise TooManyJoins(message, retry_after_s=pairing.PENDING_LIFE_S)
        fingerprint = pairing.fingerprint(request.public, self.credentials.public)
        # Anyone can choose the name, and people paste the command into a shell.
        command = f"herd nodes approve {shlex.quote(request.name)}"
        if fingerprint not in self._logged and self._may_log():
            self._logged[fingerprint] = None
            log.warning(
                "a node is waiting for approval; approve it with: %s",
                command,
                extra={"ip": ip, "fingerprint": fingerprint},
            )
        return JoinAnswer(
            "pending", self.credentials.public, fingerprint=fingerprint, next=f"on the coordinator run: {command}"
        )

    def _may_log(self) -> bool:
        """Whether another log line about machines outside the fleet fits into this minute."""
        now = self._now()
        if self._strangers_logged.wait_s("", now):
            return False
        self._strangers_logged.record_failure("", now)
        return True

    def _paired(self, request: JoinRequest, code: str, how: str) -> JoinAnswer:
        key = pairing.shared_key(
            self.credentials.private, request.public, request.public, self.credentials.public, code
        )
        if key is None:
            raise BadRequest("invalid public key")
        node_id = self._name_for(request)
        self.credentials.put_node(PairedNode(node_id, request.public, key.hex(), self._unix_s(), how))
        self.pending_nodes.reject(request.public)
        log.info("a node has joined", extra={"node_id": node_id, "how": how})
        return JoinAnswer(
            "joined", self.credentials.public, node_id, pairing.joined_proof(key, self.credentials.public, node_id)
        )

    def _name_for(self, request: JoinRequest) -> NodeId:
        """The requested name, or with a number behind it if another machine reports under that name."""
        return next(name for name in _names(request.name) if self._is_free(name, request.public))

    def _is_free(self, name: NodeId, public: str) -> bool:
        paired, node = self.credentials.nodes.get(name), self._fleet.node(name)
        if paired is not None and paired.public == public:
            return True
        return node is None or node.liveness is Liveness.OFFLINE


def _names(wanted: str) -> Iterator[NodeId]:
    """The wanted name, then the same with a number behind it."""
    yield NodeId(wanted)
    yield from (NodeId(f"{wanted}-{n}") for n in count(2))


def _check_address(query: str, ip: str) -> None:
    """The sender's address must be one of the addresses that the node has signed."""
    signed = parse_qs(query).get("from", [""])[0].split(",")[:ADDRESSES_MAX]
    if parse_address(ip) not in {parse_address(text) for text in signed}:
        addresses = ", ".join(signed)[:200]
        message = f"the message came from {ip}, which is not an address of that node: {addresses}"
        raise NodeNotPaired(message, code="wrong_address")
