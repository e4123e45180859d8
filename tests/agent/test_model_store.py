"""Tests that complete models and layers of an Ollama store are found by their digests only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fakes.ollama.store import make
from herd.agent.model_store import ModelStore, find_store


def test_a_model_is_found_by_the_digest_of_its_manifest_and_a_layer_by_its_own(tmp_path: Path) -> None:
    digest, store = make(tmp_path), ModelStore(tmp_path)
    manifest = store.manifest(digest)
    assert manifest is not None and hashlib.sha256(manifest).hexdigest() == digest
    layer = store.blob(f"sha256:{hashlib.sha256(b'weights').hexdigest()}")
    assert layer is not None and layer.size_bytes == len(b"weights")
    assert store.manifest("0" * 64) is None


def test_a_model_that_was_replaced_is_found_only_by_its_new_digest(tmp_path: Path) -> None:
    old, store = make(tmp_path), ModelStore(tmp_path)
    assert store.manifest(old) is not None
    new = make(tmp_path, layers=(b"other weights, longer",))
    assert store.manifest(new) is not None and store.manifest(old) is None


def test_a_model_with_a_missing_layer_is_not_found(tmp_path: Path) -> None:
    digest, store = make(tmp_path), ModelStore(tmp_path)
    (tmp_path / "blobs" / f"sha256-{hashlib.sha256(b'license').hexdigest()}").unlink()
    assert store.manifest(digest) is None


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "-partial", "/etc/passwd"],
)
def test_a_text_that_is_not_a_digest_is_not_found(tmp_path: Path, digest: str) -> None:
    make(tmp_path)
    assert ModelStore(tmp_path).blob(digest) is None


def test_a_symbolic_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "store")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (tmp_path / "store" / "blobs" / f"sha256-{digest}").symlink_to(secret)
    assert ModelStore(tmp_path / "store").blob(f"sha256:{digest}") is None


def test_the_store_is_the_configured_folder_or_else_in_the_home_folder(tmp_path: Path) -> None:
    configured, home = tmp_path / "configured", tmp_path / "home"
    make(configured)
    make(home / ".ollama" / "models")
    assert find_store({"OLLAMA_MODELS": str(configured)}, home, "linux") == configured
    assert find_store({"HOME": str(home)}, tmp_path / "other", "darwin") == home / ".ollama" / "models"
    assert find_store({"USERPROFILE": str(home)}, tmp_path / "other", "win32") == home / ".ollama" / "models"
    assert find_store({}, home, "linux") == home / ".ollama" / "models"
    assert find_store({"OLLAMA_MODELS": str(tmp_path / "gone")}, home, "linux") is None
