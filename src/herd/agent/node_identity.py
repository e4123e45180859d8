"""Stores this machine's key and its fleet, creates join requests, signs messages and verifies answers.

    not paired --join code--> paired        not paired --no code--> pending --approved--> paired

A machine belongs to one fleet. It reports to another fleet's coordinator only after a person pastes that fleet's code.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import msgspec

from herd.agent_protocol.join import JoinAnswer, JoinRequest
from herd.core.state.fleet import NodeId
from herd.files import write_atomically
from herd.trust import pairing
from herd.trust.pairing import Invitation, parse_invitation
from herd.trust.signing import SIGNATURE_HEADER, Signer, Stamp, forwarder_proof, is_same

log = logging.getLogger("herd.agent.node_identity")

FILE_MAX_BYTES = 64 * 1024
LOCAL_CODE = Path("trust") / "local-code"


@dataclass(frozen=True, slots=True)
class JoinSettings:
    code: str = field(
        default="",
        metadata={
            "env": "FLEET_NODE_JOIN",
            "help": "Code printed by `herd nodes invite`; only needed the first time.",
            "secret": True,
        },
    )

    def __post_init__(self) -> None:
        if self.code and parse_invitation(self.code) is None:
            raise ValueError(
                "FLEET_NODE_JOIN is not a join code; create one on the coordinator with: herd nodes invite"
            )


class _StoredIdentity(msgspec.Struct, frozen=True):
    """The file's contents. `private` and `key` are in hex; all but `private` are empty until the machine is paired."""

    private: str
    fleet_public: str = ""
    node_id: str = ""
    key: str = ""
    url: str = ""
    code_digest: str = ""


class NodeIdentity:
    """This machine's identity. `open_identity` creates it; `accept_join` writes the file again."""

    def __init__(
        self,
        path: Path,
        stored: _StoredIdentity,
        name: str,
        boot_id: str,
        pasted: Invitation | None,
        local: Invitation | None,
    ) -> None:
        """`pasted`: the code from the settings. `local`: the coordinator's code, if both use the same data folder."""
        self._path = path
        self._stored = stored
        self._name = name
        self._boot_id = boot_id
        self._pasted = pasted
        self._codes = tuple(code for code in (pasted, local) if code is not None)
        self._used_code = Invitation("")
        self._signer = self._new_signer(0)

    @property
    def is_paired(self) -> bool:
        return self._signer is not None

    @property
    def url(self) -> str:
        """The coordinator's URL: from the pasted code, else from the time when this machine joined."""
        return (
            f"http://{self._pasted.address}" if self._pasted is not None and self._pasted.address else self._stored.url
        )

    @property
    def fleet_id(self) -> str:
        """The id of the fleet; empty while this machine is not paired."""
        return pairing.fleet_id(self._stored.fleet_public) if self.is_paired else ""

    @property
    def node_id(self) -> NodeId | None:
        return NodeId(self._stored.node_id) if self.is_paired else None

    @property
    def wants_to_join(self) -> bool:
        """Whether this machine is not paired, or not with the pasted code."""
        is_new = self._pasted is not None and _digest(self._pasted) != self._stored.code_digest
        return not self.is_paired or is_new

    # --- joining ---

    @property
    def codes(self) -> int:
        """The number of codes that can be tried."""
        return len(self._codes)

    def join_request(self, attempt: int = 0) -> bytes:
        """The body for /fleet/join, with a proof of this attempt's code, or without a proof if there is no code."""
        public = pairing.public_of(bytes.fromhex(self._stored.private))
        self._used_code = self._codes[attempt % len(self._codes)] if self._codes else Invitation("")
        proof = pairing.code_proof(self._used_code.code, self._name, public) if self._used_code.code else ""
        return msgspec.json.encode(JoinRequest(self._name, public, proof))

    def accept_join(self, answer: JoinAnswer, url: str) -> str:
        """Verifies the fleet's proof and stores the shared key. Returns the problem, or an empty text."""
        private = bytes.fromhex(self._stored.private)
        key = pairing.shared_key(
            private, answer.fleet_public, pairing.public_of(private), answer.fleet_public, self._used_code.code
        )
        node_id = NodeId(answer.node_id)
        if key is None or not is_same(pairing.joined_proof(key, answer.fleet_public, node_id), answer.proof):
            return "the coordinator does not know this join code; create one there with: herd nodes invite"
        self._stored = _StoredIdentity(
            self._stored.private, answer.fleet_public, node_id, key.hex(), url, _digest(self._used_code)
        )
        self._signer = self._new_signer(self._signer.counter if self._signer is not None else 0)
        try:
            write_atomically(self._path, msgspec.json.encode(self._stored))
        except OSError as error:
            log.warning(
                "the fleet's key cannot be stored, so this machine has to join again after a restart: %s", error
            )
        log.info("paired with the fleet", extra={"node_id": node_id, "fleet": self.fleet_id})
        return ""

    def fingerprint(self, fleet_public: str) -> str:
        """The fingerprint that both sides show for the approval."""
        return pairing.fingerprint(pairing.public_of(bytes.fromhex(self._stored.private)), fleet_public)

    # --- messages ---

    def forwarder_proof(self, pin: str) -> str:
        """The first bytes that the coordinator sends to a forwarder with this certificate; empty if not paired."""
        return forwarder_proof(bytes.fromhex(self._stored.key), pin) if self._stored.key else ""

    def sign(self, path: str, body: bytes) -> Stamp | None:
        """The stamp for this message; None if not paired."""
        return self._signer.sign(path, body) if self._signer is not None else None

    def use_session(self, session: str) -> None:
        if self._signer is not None:
            self._signer.use_session(session)

    def is_from_coordinator(self, stamp: Stamp, status: int, headers: dict[str, str], body: bytes) -> bool:
        """Whether this answer came from this machine's coordinator. `headers` by lower-case name."""
        answer_signature = headers.get(SIGNATURE_HEADER.lower(), "")
        return self._signer is not None and self._signer.is_genuine_answer(stamp, status, body, answer_signature)

    def _new_signer(self, counter: int) -> Signer | None:
        if not self._stored.key:
            return None
        return Signer(NodeId(self._stored.node_id), self._boot_id, bytes.fromhex(self._stored.key), counter)


def open_identity(data_dir: Path, name: str, boot_id: str, settings: JoinSettings, random: bytes) -> NodeIdentity:
    """Reads the stored identity, or creates one from `random` (32 bytes), and reads the coordinator's local code.

    A file that cannot be read is replaced; the machine then has to join again.
    """
    path = data_dir / f"passport-{quote(name, safe='')}.json"
    stored = _read(path)
    if stored is None:
        stored = _StoredIdentity(random.hex())
        try:
            write_atomically(path, msgspec.json.encode(stored))
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)
    return NodeIdentity(
        path, stored, name, boot_id, parse_invitation(settings.code), parse_invitation(_local_code(data_dir))
    )


def _local_code(data_dir: Path) -> str:
    try:
        return (data_dir / LOCAL_CODE).read_text("ascii")
    except (OSError, ValueError):
        return ""


def _read(path: Path) -> _StoredIdentity | None:
    try:
        with path.open("rb") as file:
            stored = msgspec.json.decode(file.read(FILE_MAX_BYTES), type=_StoredIdentity)
        if len(bytes.fromhex(stored.private)) == pairing.KEY_BYTES and len(bytes.fromhex(stored.key)) in (
            0,
            pairing.KEY_BYTES,
        ):
            return stored
        log.warning("%s is invalid; this machine has to join again", path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        log.warning("%s cannot be read; this machine has to join again: %s", path, error)
    return None


def _digest(code: Invitation) -> str:
    """Identifies the code without storing it."""
    return hashlib.sha256(code.code.encode()).hexdigest()[:16] if code.code else ""
