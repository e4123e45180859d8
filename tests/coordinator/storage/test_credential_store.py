"""Tests that credentials are stored completely, privately, and that a damaged file makes the start fail."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from herd.coordinator.storage import credential_store
from herd.coordinator.storage.credential_store import (
    CredentialStore,
    CredentialStoreDamaged,
    CredentialStoreFull,
    PairedNode,
)
from herd.core.state.fleet import NodeId
from herd.trust.keys import ApiKey, Scope

KEY = ApiKey(
    id="id1",
    name="app",
    digest="0" * 64,
    scopes=frozenset({Scope.CHAT, Scope.READ}),
    created_at=1.0,
    models=("llama*",),
    requests_per_minute=10,
    concurrent_max=2,
    tokens_per_month=100,
    expires_at=5.0,
)
NODE = PairedNode("mac", "1" * 64, "2" * 64, 3.0, "code")


def a_credential_store(folder: Path, seed: int = 1) -> CredentialStore:
    store = CredentialStore(folder)
    store.open(bytes([seed]) * 32, bytes([seed]) * 10)
    return store


def test_credentials_survive_a_restart(tmp_path: Path) -> None:
    first = a_credential_store(tmp_path)
    first.put_key(KEY)
    first.put_node(NODE)
    again = a_credential_store(tmp_path, seed=2)
    assert (again.public, again.local_code, again.fleet_id) == (first.public, first.local_code, first.fleet_id)
    assert list(again.keyring) == [KEY] and again.nodes == {NodeId("mac"): NODE}


def test_a_change_replaces_the_entry_with_the_same_id(tmp_path: Path) -> None:
    kept = a_credential_store(tmp_path)
    kept.put_key(KEY)
    kept.put_key(ApiKey(id="id1", name="renamed", digest="0" * 64, scopes=frozenset({Scope.CHAT}), created_at=1.0))
    assert [key.name for key in a_credential_store(tmp_path).keyring] == ["renamed"]


def test_a_removed_node_is_forgotten(tmp_path: Path) -> None:
    kept = a_credential_store(tmp_path)
    kept.put_node(NODE)
    assert kept.remove_node(NodeId("mac")) and not kept.remove_node(NodeId("mac"))
    assert not a_credential_store(tmp_path).nodes


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_other_users_cannot_read_the_credentials(tmp_path: Path) -> None:
    a_credential_store(tmp_path).put_key(KEY)
    folder = tmp_path / credential_store.FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        [credential_store.IDENTITY_FILE, credential_store.KEYS_FILE, credential_store.LOCAL_CODE_FILE], 0o600
    )


@pytest.mark.parametrize("stored", ["", "not a key"])
def test_the_public_key_is_added_to_the_file_of_an_earlier_version(tmp_path: Path, stored: str) -> None:
    public = a_credential_store(tmp_path).public
    path = tmp_path / credential_store.FOLDER / credential_store.IDENTITY_FILE
    complete = path.read_bytes()
    known = json.loads(complete)
    path.write_text(json.dumps({"private": known["private"]} | ({"public": stored} if stored else {})))
    assert a_credential_store(tmp_path).public == public
    assert path.read_bytes() == complete


def test_an_earlier_identity_that_cannot_be_rewritten_is_used(tmp_path: Path) -> None:
    known = a_credential_store(tmp_path)
    path = tmp_path / credential_store.FOLDER / credential_store.IDENTITY_FILE
    path.write_text(json.dumps({"private": known.private.hex()}))
    (path.parent / f"{path.name}.new").mkdir()
    assert a_credential_store(tmp_path).public == known.public


@pytest.mark.parametrize(
    "name",
    [
        credential_store.IDENTITY_FILE,
        credential_store.KEYS_FILE,
        credential_store.NODES_FILE,
        credential_store.LOCAL_CODE_FILE,
    ],
)
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"private":"00"}'])
def test_a_damaged_file_makes_the_start_fail_and_is_named(tmp_path: Path, name: str, damage: bytes) -> None:
    kept = a_credential_store(tmp_path)
    kept.put_key(KEY)
    kept.put_node(NODE)
    (tmp_path / credential_store.FOLDER / name).write_bytes(damage)
    with pytest.raises(CredentialStoreDamaged, match=name):
        a_credential_store(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a device that is always full")
def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    kept = a_credential_store(tmp_path)
    kept.put_key(KEY)
    folder = tmp_path / credential_store.FOLDER
    (folder / f"{credential_store.KEYS_FILE}.new").mkdir()
    with pytest.raises(OSError):
        kept.put_key(ApiKey(id="id2", name="other", digest="0" * 64, scopes=frozenset({Scope.CHAT}), created_at=1.0))
    assert [key.id for key in kept.keyring] == ["id1"] == [key.id for key in a_credential_store(tmp_path).keyring]


def test_the_number_of_keys_and_nodes_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_store, "KEYS_MAX", 1)
    monkeypatch.setattr(credential_store, "NODES_MAX", 1)
    kept = a_credential_store(tmp_path)
    kept.put_key(KEY)
    kept.put_node(NODE)
    with pytest.raises(CredentialStoreFull):
        kept.put_key(ApiKey(id="id2", name="other", digest="0" * 64, scopes=frozenset({Scope.CHAT}), created_at=1.0))
    with pytest.raises(CredentialStoreFull):
        kept.put_node(PairedNode("pc", "1" * 64, "2" * 64, 3.0, "code"))
    kept.put_key(KEY)
    kept.put_node(NODE)


def test_changes_from_several_threads_are_all_kept(tmp_path: Path) -> None:
    store = a_credential_store(tmp_path)
    names = [f"node{number}" for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: store.put_node(PairedNode(name, "00", "11", 1.0, "code")), names))
    assert sorted(store.nodes) == sorted(names) == sorted(a_credential_store(tmp_path).nodes)
