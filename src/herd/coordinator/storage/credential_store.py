"""What a fleet must not lose or show: its identity, the keys of nodes and clients. Files that only their owner can read.

Beside the database and not in it: a damaged database is set aside and begun anew, and who may come in must not be
forgotten with it. A damaged file here stops the start instead. Every change replaces a file whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from herd.coordinator.storage.data_dir import make_private
from herd.core.state.fleet import NodeId
from herd.files import write_atomically
from herd.trust import pairing
from herd.trust.keys import ApiKey, Keyring

FOLDER = "trust"
IDENTITY_FILE = "identity.json"
KEYS_FILE = "keys.json"
NODES_FILE = "nodes.json"
LOCAL_CODE_FILE = "local-code"
FILE_MAX_BYTES = 4 * 1024 * 1024
KEYS_MAX = 1024
NODES_MAX = 1024

Kept = TypeVar("Kept")


class CredentialStoreDamaged(Exception):
    """A file cannot be used as it is; the message names it and what to do."""


class CredentialStoreFull(Exception):
    """As many as may be kept; the message says of what."""


class PairedNode(msgspec.Struct, frozen=True):
    """One node that may report. `key` in hex."""

    node_id: str
    public: str
    key: str
    paired_at: float
    how: str
    """"code", "approved" or "this machine"."""


class _Identity(msgspec.Struct, frozen=True):
    private: str


class CredentialStore:
    """Opened at start, on this thread; changes are small and rare. Raises `OSError` where the folder cannot be used."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self.private = b""
        self.public = ""
        self.local_code = ""
        self.keyring = Keyring()
        self.nodes: dict[NodeId, PairedNode] = {}

    @property
    def fleet_id(self) -> str:
        return pairing.fleet_id(self.public)

    def open(self, identity: bytes, local_code: bytes) -> None:
        """Reads everything; what is not there yet is made from these random bytes. Raises `CredentialStoreDamaged`, `OSError`."""
        make_private(self._folder)
        self.private = self._identity(identity)
        self.public = pairing.public_of(self.private)
        self.local_code = self._code(local_code)
        self.keyring = Keyring(self._read(KEYS_FILE, list[ApiKey]) or [])
        self.nodes = {NodeId(one.node_id): one for one in self._read(NODES_FILE, list[PairedNode]) or []}

    def put_key(self, key: ApiKey) -> None:
        """Adds this key, or replaces the one with its id. Raises `CredentialStoreFull`, `OSError`; then nothing has changed."""
        keys = [one for one in self.keyring if one.id != key.id]
        if len(keys) >= KEYS_MAX:
            raise CredentialStoreFull(
                f"{KEYS_MAX} keys are kept, revoked ones included; remove {self._folder / KEYS_FILE} to begin anew"
            )
        self._write(KEYS_FILE, msgspec.json.encode([*keys, key]))
        self.keyring = Keyring([*keys, key])

    def put_node(self, node: PairedNode) -> None:
        """The same for a node."""
        nodes = {**self.nodes, NodeId(node.node_id): node}
        if len(nodes) > NODES_MAX:
            raise CredentialStoreFull(f"{NODES_MAX} nodes are paired; remove one with: herd nodes remove NAME")
        self._write(NODES_FILE, msgspec.json.encode(list(nodes.values())))
        self.nodes = nodes

    def remove_node(self, node_id: NodeId) -> bool:
        """Whether it was paired. From now on it is a stranger. Raises `OSError`."""
        if node_id not in self.nodes:
            return False
        nodes = {name: node for name, node in self.nodes.items() if name != node_id}
        self._write(NODES_FILE, msgspec.json.encode(list(nodes.values())))
        self.nodes = nodes
        return True

    # --- files ---

    def _identity(self, fresh: bytes) -> bytes:
        known = self._read(IDENTITY_FILE, _Identity)
        if known is None:
            self._write(IDENTITY_FILE, msgspec.json.encode(_Identity(fresh.hex())))
            return fresh
        try:
            private = bytes.fromhex(known.private)
        except ValueError:
            private = b""
        if len(private) != pairing.KEY_BYTES:
            raise self._damaged(IDENTITY_FILE, "it holds no key")
        return private

    def _code(self, fresh: bytes) -> str:
        raw = self._bytes(LOCAL_CODE_FILE)
        if raw is None:
            self._write(LOCAL_CODE_FILE, pairing.invitation(fresh).text.encode() + b"\n")
            return pairing.invitation(fresh).code
        known = pairing.read_invitation(raw.decode("ascii", "replace"))
        if known is None:
            raise self._damaged(LOCAL_CODE_FILE, "it holds no code")
        return known.code

    def _read(self, name: str, kind: type[Kept]) -> Kept | None:
        raw = self._bytes(name)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise self._damaged(name, str(error)) from error

    def _bytes(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(FILE_MAX_BYTES)
        except FileNotFoundError:
            return None

    def _write(self, name: str, data: bytes) -> None:
        write_atomically(self._folder / name, data)

    def _damaged(self, name: str, why: str) -> CredentialStoreDamaged:
        path = self._folder / name
        return CredentialStoreDamaged(
            f"{path} is damaged ({why}); put a copy of it back, or remove it to begin without what it held"
        )
