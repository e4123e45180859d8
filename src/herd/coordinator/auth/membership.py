"""Which nodes belong to the fleet: lets them join, checks that what they report is theirs. Routes no request, keeps no node's state.

    stranger --code, this machine's own folder--> paired
    stranger --nothing--> waits --a person approves--> paired        paired --a person removes--> stranger

A paired node signs everything (`trust/signing.py`); its address must be one that it says is its own, so that nobody
between can have the requests sent to himself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from urllib.parse import parse_qs, urlsplit

from herd.addresses import parse_address
from herd.agent_protocol.join import JoinAnswer, JoinRequest
from herd.coordinator.storage.credential_store import CredentialStore, PairedNode
from herd.core.state.fleet import Fleet, Liveness, NodeId
from herd.errors import BadRequest, HerdError
from herd.trust import pairing, signing
from herd.trust.addresses import node_problem
from herd.trust.pairing import Invitation, JoinCodes, PendingNode, PendingNodes
from herd.trust.signing import Sessions, Stamp, Verification

log = logging.getLogger("herd.membership")

TWINS_MAX = 100
ADDRESSES_MAX = 32
DOORS_MAX = 4096


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Which machines may take part."""

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


class NotOfTheFleet(HerdError):
    """Whoever reports is not paired, or is not who it says it is."""

    status = 401
    code = "not_paired"


class SessionWanted(HerdError):
    """A paired node is to sign under another session; it has not done anything wrong."""

    status = 401
    code = "new_session"

    def __init__(self, session: str) -> None:
        super().__init__("sign under the session that is named here")
        self.session = session


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who a message is from: a paired node by its stamp, or, in an open fleet, whoever."""

    node_id: NodeId | None
    stamp: Stamp | None = None
    key: bytes = b""

    def answer_headers(self, status: int, body: bytes) -> dict[str, str]:
        """What proves to the node that the answer is ours."""
        if self.stamp is None:
            return {}
        return {signing.SIGNATURE_HEADER: signing.answer_signature(self.key, self.stamp, status, body)}


ANYBODY = Reporter(None)


class _Doors(dict[str, str]):
    """What is said first at which door, the newest `DOORS_MAX`."""

    def __setitem__(self, url: str, proof: str) -> None:
        self.pop(url, None)
        if len(self) >= DOORS_MAX:
            del self[next(iter(self))]
        super().__setitem__(url, proof)


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
        self.applicants = PendingNodes()
        self.codes = JoinCodes()
        self._fleet = fleet
        self._secrets = secrets
        self._now = now
        self._unix_s = unix_s
        self._told: frozenset[str] = frozenset()
        """Fingerprints that a line in the log was written about."""
        self._doors = _Doors()
        self._sessions = Sessions(lambda: secrets(signing.SECRET_BYTES))

    # --- what is reported ---

    def check(self, header: Callable[[str], str | None], path: str, query: str, body: bytes, ip: str) -> Reporter:
        """Whose message this is. Raises `NotOfTheFleet` or `SessionWanted`; only a genuine, new message changes anything."""
        stamp = signing.stamp_in(header)
        if stamp is None:
            if self.settings.open:
                return ANYBODY
            raise NotOfTheFleet(
                "this machine does not belong to the fleet yet; on the coordinator: herd nodes invite, and paste what it prints here"
            )
        node = self.credentials.nodes.get(stamp.node_id)
        if node is None:
            raise NotOfTheFleet(
                "this machine was removed from the fleet, or belongs to another; on the coordinator: herd nodes invite"
            )
        key = bytes.fromhex(node.key)
        verdict = self._sessions.check(key, f"{path}?{query}" if query else path, stamp, body)
        if verdict is Verification.STALE:
            raise SessionWanted(self._sessions.name(key, stamp.node_id, stamp.boot_id))
        if verdict is not Verification.GENUINE:
            log.warning(
                "a message that is not the node's own was ignored",
                extra={"node_id": stamp.node_id, "ip": ip, "verdict": verdict.value},
            )
            raise NotOfTheFleet(f"the message is {verdict.value}")
        _check_address(query, ip)
        return Reporter(stamp.node_id, stamp, key)

    def check_reach(self, urls: Iterable[str], reporter: Reporter = ANYBODY) -> None:
        """Whether the coordinator may talk to engines at these places (http://ADDRESS:PORT, https://ADDRESS:PORT#PIN).

        Where a door speaks TLS, what is to be said there follows from the key that the node signed with; a node without one
        has no such door. Raises `NotOfTheFleet`.
        """
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme == "https":
                if reporter.node_id is None:
                    raise NotOfTheFleet(
                        "only a paired node has doors that speak TLS; on the coordinator: herd nodes invite"
                    )
                self._doors[url] = signing.forwarder_proof(reporter.key, parts.fragment)
            problem = node_problem(parts.hostname or "", parts.port or 0, self.settings.networks)
            if problem:
                raise NotOfTheFleet(f"an engine cannot be reached at {url[:100]}: {problem}", code="wrong_address")

    def forwarder_proof(self, url: str) -> str:
        """What the coordinator says first at this door; empty where no node has announced it."""
        return self._doors.get(url, "")

    def may_claim(self, node_id: NodeId) -> bool:
        """Whether an unsigned report may go by this name: not by that of a paired node."""
        return node_id not in self.credentials.nodes

    # --- joining ---

    def invite(self, place: str) -> Invitation:
        """A code for the next ten minutes."""
        invitation = pairing.invitation(self._secrets(pairing.CODE_BYTES), place)
        self.codes.open(invitation.code, self._now())
        return invitation

    def join(self, said: JoinRequest, ip: str) -> JoinAnswer:
        """Raises `BadRequest`, `NotOfTheFleet` for a wrong code, `VaultFull`, `OSError`."""
        if not 0 < len(said.name) <= pairing.NODE_NAME_MAX_CHARS or not said.name.isprintable():
            raise BadRequest(f"a node's name has 1 to {pairing.NODE_NAME_MAX_CHARS} printable characters")
        if not said.proof:
            return self._join_by_approval(said, ip)
        # Whoever can read the local code's file is this machine's own user, from whatever address it calls.
        local = self.credentials.local_code
        code = self.codes.proved(said.proof, said.name, said.public, self._now(), local)
        if not code:
            raise NotOfTheFleet(
                "this code is wrong or older than ten minutes; on the coordinator: herd nodes invite", code="wrong_code"
            )
        return self._paired(said, code, "this machine" if code == local else "code")

    def _join_by_approval(self, said: JoinRequest, ip: str) -> JoinAnswer:
        if self.settings.open and said.name not in self.credentials.nodes:
            return JoinAnswer("open", self.credentials.public)
        if self.applicants.take_approved(said.public):
            return self._paired(said, "", "approved")
        if pairing.shared_key(self.credentials.private, said.public, said.public, self.credentials.public, "") is None:
            raise BadRequest("that is no public key")
        if not self.applicants.apply(PendingNode(said.name, said.public, ip, self._unix_s())):
            raise NotOfTheFleet(f"{pairing.PENDING_MAX} machines wait for approval already", code="too_many_pending")
        shown = pairing.fingerprint(said.public, self.credentials.public)
        if shown not in self._told:
            self._told = (
                frozenset((*self._told, shown)) if len(self._told) < pairing.PENDING_MAX else frozenset((shown,))
            )
            log.warning(
                "a machine wants to take part; to let it in: herd nodes approve %s",
                said.name,
                extra={"ip": ip, "fingerprint": shown},
            )
        return JoinAnswer(
            "pending",
            self.credentials.public,
            fingerprint=shown,
            next=f"on the coordinator: herd nodes approve {said.name}",
        )

    def _paired(self, said: JoinRequest, code: str, how: str) -> JoinAnswer:
        key = pairing.shared_key(self.credentials.private, said.public, said.public, self.credentials.public, code)
        if key is None:
            raise BadRequest("that is no public key")
        node_id = self._name_for(said)
        self.credentials.put_node(PairedNode(node_id, said.public, key.hex(), self._unix_s(), how))
        self.applicants.reject(said.public)
        log.info("a node has joined", extra={"node_id": node_id, "how": how})
        return JoinAnswer(
            "joined", self.credentials.public, node_id, pairing.joined_proof(key, self.credentials.public, node_id)
        )

    def _name_for(self, said: JoinRequest) -> NodeId:
        """The name it asks for, unless another machine reports by that name now."""
        names = [NodeId(said.name), *(NodeId(f"{said.name}-{n}") for n in range(2, TWINS_MAX))]
        return next((name for name in names if self._is_free(name, said.public)), names[-1])

    def _is_free(self, name: NodeId, public: str) -> bool:
        paired, node = self.credentials.nodes.get(name), self._fleet.node(name)
        if paired is not None and paired.public == public:
            return True
        return node is None or node.liveness is Liveness.OFFLINE


def _check_address(query: str, ip: str) -> None:
    """The sender must be at one of the addresses that the node, signed, says it has."""
    said = parse_qs(query).get("from", [""])[0].split(",")[:ADDRESSES_MAX]
    if parse_address(ip) not in {parse_address(text) for text in said}:
        raise NotOfTheFleet(
            f"the message came from {ip}, which is not an address of that node: {', '.join(said)[:200]}",
            code="wrong_address",
        )
