"""Stores the fleet's identity and the keys of nodes and clients, in files that only their owner can read.

They are not in the database: a damaged database is replaced by a new one, and credentials must not be lost with it. A
damaged file here makes the start fail instead. Every change replaces a file atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
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
ADDRESSES_FILE = "addresses.json"
LOCAL_CODE_FILE = "local-code"
FILE_MAX_BYTES = 4 * 1024 * 1024
KEYS_MAX = 1024
NODES_MAX = 1024

Decoded = TypeVar("Decoded")


class CredentialStoreDamaged(Exception):
    """A file is damaged; the message names the file and what to do."""


class CredentialStoreFull(Exception):
    """The maximum number of keys or nodes is reached; the message says which."""


class PairedNode(msgspec.Struct, frozen=True):
    """A paired node. `public` and `key` are hexadecimal."""

    node_id: str
    public: str
    key: str
    paired_at: float
    how: str
    """"code", "approved" or "this machine"."""


class ApprovedAddress(msgspec.Struct, frozen=True):
    """An address from which an agent of ollama-herd, which cannot sign, may report one node."""

    address: str
    node_id: str
    approved_at: float
    reported: str = ""
    """The name in its reports, if another node had it; the node is then `node_id` here."""

    @property
    def sender(self) -> tuple[str, str]:
        """The address and the name in its reports."""
        return self.address, self.reported or self.node_id


class _Identity(msgspec.Struct, frozen=True):
    private: str
    public: str = ""
    """Stored so that a start needs no cryptography. Files of earlier versions lack it."""


class CredentialStore:
    """Reads and writes its small files on the calling thread; changes are rare and may come from several threads."""

    def __init__(self, data_dir: Path) -> None:
        self._changing = threading.Lock()
        """Held while a list is read, changed and written, so that no change is lost."""
        self._folder = data_dir / FOLDER
        self.private = b""
        self.public = ""
        self.local_code = ""
        self.keyring = Keyring()
        self.nodes: dict[NodeId, PairedNode] = {}
        self.addresses: dict[tuple[str, str], ApprovedAddress] = {}
        """By address and reported name."""

    @property
    def fleet_id(self) -> str:
        return pairing.fleet_id(self.public)

    @property
    def user_hash_key(self) -> bytes:
        """The key of the hashes that stand for users' names. It lasts as long as the fleet's identity."""
        return hashlib.sha256(b"names of users" + self.private).digest()

    def open(self, identity: bytes, local_code: bytes) -> None:
        """Reads all files; a missing identity or local code is created from these random bytes.

        Raises `CredentialStoreDamaged` and `OSError`.
        """
        make_private(self._folder)
        self.private, self.public = self._identity(identity)
        self.local_code = self._code(local_code)
        self.keyring = Keyring(self._read(KEYS_FILE, list[ApiKey]) or [])
        self.nodes = {NodeId(one.node_id): one for one in self._read(NODES_FILE, list[PairedNode]) or []}
        self.addresses = {one.sender: one for one in self._read(ADDRESSES_FILE, list[ApprovedAddress]) or []}

    def put_key(self, key: ApiKey) -> None:
        """Adds the key, or replaces the key with its id. Raises `CredentialStoreFull` and `OSError`; then nothing has
        changed."""
        with self._changing:
            keys = [one for one in self.keyring if one.id != key.id]
            if len(keys) >= KEYS_MAX:
                raise CredentialStoreFull(
                    f"the maximum of {KEYS_MAX} keys, including revoked ones, is reached; "
                    f"to start with an empty list, delete {self._folder / KEYS_FILE} and restart herd"
                )
            self._write(KEYS_FILE, msgspec.json.encode([*keys, key]))
            self.keyring = Keyring([*keys, key])

    def put_node(self, node: PairedNode) -> None:
        """Adds or replaces a node. Raises `CredentialStoreFull` and `OSError`; then nothing has changed."""
        with self._changing:
            nodes = {**self.nodes, NodeId(node.node_id): node}
            if len(nodes) > NODES_MAX:
                raise CredentialStoreFull(
                    f"the maximum of {NODES_MAX} paired nodes is reached; remove one with: herd nodes remove NAME"
                )
            self._write(NODES_FILE, msgspec.json.encode(list(nodes.values())))
            self.nodes = nodes

    def put_address(self, approved: ApprovedAddress) -> None:
        """Adds or replaces an address. Raises `CredentialStoreFull` and `OSError`; then nothing has changed."""
        with self._changing:
            self._write_addresses({**self.addresses, approved.sender: approved})

    def remove_addresses(self, node_id: NodeId) -> bool:
        """Removes the addresses of a node; False if it has none. Raises `OSError`."""
        with self._changing:
            kept = {sender: one for sender, one in self.addresses.items() if one.node_id != node_id}
            if len(kept) == len(self.addresses):
                return False
            self._write_addresses(kept)
            return True

    def _write_addresses(self, addresses: dict[tuple[str, str], ApprovedAddress]) -> None:
        if len(addresses) > NODES_MAX:
            raise CredentialStoreFull(
                f"the maximum of {NODES_MAX} approved addresses is reached; remove a node with: herd nodes remove NAME"
            )
        self._write(ADDRESSES_FILE, msgspec.json.encode(list(addresses.values())))
        self.addresses = addresses

    def remove_node(self, node_id: NodeId) -> bool:
        """Removes a node; False if it was not paired. Raises `OSError`."""
        with self._changing:
            if node_id not in self.nodes:
                return False
            nodes = {name: node for name, node in self.nodes.items() if name != node_id}
            self._write(NODES_FILE, msgspec.json.encode(list(nodes.values())))
            self.nodes = nodes
            return True

    # --- files ---

    def _identity(self, new: bytes) -> tuple[bytes, str]:
        found = self._read(IDENTITY_FILE, _Identity)
        known = found or _Identity(new.hex())
        try:
            private = bytes.fromhex(known.private)
        except ValueError:
            private = b""
        if len(private) != pairing.KEY_BYTES:
            raise self._damaged(IDENTITY_FILE, "it contains no key")
        if pairing.is_public_key(known.public):
            return private, known.public
        public = pairing.public_of(private)
        # Only a new private key must be stored.
        with contextlib.suppress(*() if found is None else (OSError,)):
            self._write(IDENTITY_FILE, msgspec.json.encode(_Identity(known.private, public)))
        return private, public

    def _code(self, new: bytes) -> str:
        raw = self._bytes(LOCAL_CODE_FILE)
        if raw is None:
            self._write(LOCAL_CODE_FILE, pairing.create_invitation(new).text.encode() + b"\n")
            return pairing.create_invitation(new).code
        known = pairing.parse_invitation(raw.decode("ascii", "replace"))
        if known is None:
            raise self._damaged(LOCAL_CODE_FILE, "it contains no join code")
        return known.code

    def _read(self, name: str, kind: type[Decoded]) -> Decoded | None:
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
            f"{path} is damaged ({why}); restore it from a backup, or delete it to start without its contents"
        )
