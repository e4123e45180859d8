"""Which fleet this machine belongs to, and its proof of it: joins, signs what is sent, checks what is answered. Sends nothing.

    no fleet --code or this machine's own folder--> paired;  --nothing but a name--> pending --approved--> paired

One fleet at a time: a coordinator of another is not reported to until a person pastes its code.
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
            raise ValueError("FLEET_NODE_JOIN: that is no code; `herd nodes invite` on the coordinator prints one")


class _Kept(msgspec.Struct, frozen=True):
    """The file. `private` and `key` in hex; the rest is empty until it is paired."""

    private: str
    fleet_public: str = ""
    node_id: str = ""
    key: str = ""
    url: str = ""
    code_digest: str = ""


class NodeIdentity:
    """Made by `open`, which reads and writes files; everything else is values."""

    def __init__(
        self, path: Path, kept: _Kept, name: str, boot_id: str, pasted: Invitation | None, local: Invitation | None
    ) -> None:
        """What this machine can prove itself with: the code that somebody pasted, and the one in a folder that it shares
        with its coordinator."""
        self._path = path
        self._kept = kept
        self._name = name
        self._boot_id = boot_id
        self._pasted = pasted
        self._codes = tuple(code for code in (pasted, local) if code is not None)
        self._offered = Invitation("")
        self._speaker = self._new_speaker(0)

    @property
    def is_paired(self) -> bool:
        return self._speaker is not None

    @property
    def url(self) -> str:
        """Where the coordinator was when this machine joined, or where the code says that it is."""
        return f"http://{self._pasted.address}" if self._pasted is not None and self._pasted.address else self._kept.url

    @property
    def fleet_id(self) -> str:
        """The fleet it belongs to; empty while it belongs to none."""
        return pairing.fleet_id(self._kept.fleet_public) if self.is_paired else ""

    @property
    def node_id(self) -> NodeId | None:
        return NodeId(self._kept.node_id) if self.is_paired else None

    @property
    def wants_to_join(self) -> bool:
        """Not paired yet, or not with the code that was pasted."""
        is_new = self._pasted is not None and _digest(self._pasted) != self._kept.code_digest
        return not self.is_paired or is_new

    # --- joining ---

    @property
    def proofs(self) -> int:
        """How many codes there are to try."""
        return len(self._codes)

    def wish(self, attempt: int = 0) -> bytes:
        """What to send to /fleet/join: with a proof of each code in turn, or without one where there is none."""
        public = pairing.public_of(bytes.fromhex(self._kept.private))
        self._offered = self._codes[attempt % len(self._codes)] if self._codes else Invitation("")
        proof = pairing.code_proof(self._offered.code, self._name, public) if self._offered.code else ""
        return msgspec.json.encode(JoinRequest(self._name, public, proof))

    def joined(self, answer: JoinAnswer, url: str) -> str:
        """Checks that the fleet has the same key and keeps it. What is wrong, or empty."""
        private = bytes.fromhex(self._kept.private)
        key = pairing.shared_key(
            private, answer.fleet_public, pairing.public_of(private), answer.fleet_public, self._offered.code
        )
        node_id = NodeId(answer.node_id)
        if key is None or not is_same(pairing.joined_proof(key, answer.fleet_public, node_id), answer.proof):
            return "whoever answers there does not know the code; is it your coordinator?"
        self._kept = _Kept(self._kept.private, answer.fleet_public, node_id, key.hex(), url, _digest(self._offered))
        self._speaker = self._new_speaker(self._speaker.counter if self._speaker is not None else 0)
        try:
            write_atomically(self._path, msgspec.json.encode(self._kept))
        except OSError as error:
            log.warning(
                "that this machine belongs to the fleet cannot be kept, so it must join again after a restart: %s",
                error,
            )
        log.info("this machine belongs to the fleet", extra={"node_id": node_id, "fleet": self.fleet_id})
        return ""

    def fingerprint(self, fleet_public: str) -> str:
        """What both sides show while a person decides."""
        return pairing.fingerprint(pairing.public_of(bytes.fromhex(self._kept.private)), fleet_public)

    # --- what is said ---

    def forwarder_proof(self, pin: str) -> str:
        """What the coordinator will say first at our door that shows this certificate; empty while there is no fleet."""
        return forwarder_proof(bytes.fromhex(self._kept.key), pin) if self._kept.key else ""

    def sign(self, path: str, body: bytes) -> Stamp | None:
        """The stamp for this message; None while there is no fleet."""
        return self._speaker.sign(path, body) if self._speaker is not None else None

    def take_session(self, session: str) -> None:
        if self._speaker is not None:
            self._speaker.use_session(session)

    def is_ours(self, stamp: Stamp, status: int, headers: dict[str, str], body: bytes) -> bool:
        """Whether this answer came from our coordinator. `headers` by lower-case names."""
        signed = headers.get(SIGNATURE_HEADER.lower(), "")
        return self._speaker is not None and self._speaker.is_genuine_answer(stamp, status, body, signed)

    def _new_speaker(self, counter: int) -> Signer | None:
        if not self._kept.key:
            return None
        return Signer(NodeId(self._kept.node_id), self._boot_id, bytes.fromhex(self._kept.key), counter)


def open_passport(data_dir: Path, name: str, boot_id: str, settings: JoinSettings, random: bytes) -> NodeIdentity:
    """Reads this machine's own key, or makes it of `random` (32 bytes); and its coordinator's code where both share a folder.

    A file that cannot be read is replaced: the machine then joins anew.
    """
    path = data_dir / f"passport-{quote(name, safe='')}.json"
    kept = _read(path)
    if kept is None:
        kept = _Kept(random.hex())
        try:
            write_atomically(path, msgspec.json.encode(kept))
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)
    return NodeIdentity(
        path, kept, name, boot_id, parse_invitation(settings.code), parse_invitation(_local_code(data_dir))
    )


def _local_code(data_dir: Path) -> str:
    try:
        return (data_dir / LOCAL_CODE).read_text("ascii")
    except (OSError, ValueError):
        return ""


def _read(path: Path) -> _Kept | None:
    try:
        with path.open("rb") as file:
            kept = msgspec.json.decode(file.read(FILE_MAX_BYTES), type=_Kept)
        if len(bytes.fromhex(kept.private)) == pairing.KEY_BYTES and len(bytes.fromhex(kept.key)) in (
            0,
            pairing.KEY_BYTES,
        ):
            return kept
        log.warning("%s is damaged; this machine joins anew", path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        log.warning("%s cannot be read; this machine joins anew: %s", path, error)
    return None


def _digest(code: Invitation) -> str:
    """Which code it joined with, without keeping the code."""
    return hashlib.sha256(code.code.encode()).hexdigest()[:16] if code.code else ""
