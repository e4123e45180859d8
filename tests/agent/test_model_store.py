"""A store of Ollama's, read: what is whole is found by its digest, and nothing else is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fakes.ollama.store import make
from herd.agent.model_store import ModelStore, find_store


def test_a_model_is_found_by_the_digest_of_its_manifest_and_a_layer_by_its_own(tmp_path: Path) -> None:
    digest, library = make(tmp_path), ModelStore(tmp_path)
    manifest = library.manifest(digest)
    assert manifest is not None and hashlib.sha256(manifest).hexdigest() == digest
    layer = library.blob(f"sha256:{hashlib.sha256(b'weights').hexdigest()}")
    assert layer is not None and layer.size_bytes == len(b"weights")
    assert library.manifest("0" * 64) is None


def test_a_model_that_was_made_anew_is_known_by_its_new_digest_alone(tmp_path: Path) -> None:
    old, library = make(tmp_path), ModelStore(tmp_path)
    assert library.manifest(old) is not None
    new = make(tmp_path, layers=(b"other weights, longer",))
    assert library.manifest(new) is not None and library.manifest(old) is None


def test_a_model_of_which_a_layer_is_missing_is_not_given_away(tmp_path: Path) -> None:
    digest, library = make(tmp_path), ModelStore(tmp_path)
    (tmp_path / "blobs" / f"sha256-{hashlib.sha256(b'licence').hexdigest()}").unlink()
    assert library.manifest(digest) is None


@pytest.mark.parametrize(
    "asked",
    ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "-partial", "/etc/passwd"],
)
def test_what_is_no_digest_leads_nowhere(tmp_path: Path, asked: str) -> None:
    make(tmp_path)
    assert ModelStore(tmp_path).blob(asked) is None


def test_a_link_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "store")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (tmp_path / "store" / "blobs" / f"sha256-{digest}").symlink_to(secret)
    assert ModelStore(tmp_path / "store").blob(f"sha256:{digest}") is None


def test_the_store_is_where_the_engine_was_told_else_in_its_home(tmp_path: Path) -> None:
    told, home = tmp_path / "told", tmp_path / "home"
    make(told)
    make(home / ".ollama" / "models")
    assert find_store({"OLLAMA_MODELS": str(told)}, home, "linux") == told
    assert find_store({"HOME": str(home)}, tmp_path / "nobody", "darwin") == home / ".ollama" / "models"
    assert find_store({"USERPROFILE": str(home)}, tmp_path / "nobody", "win32") == home / ".ollama" / "models"
    assert find_store({}, home, "linux") == home / ".ollama" / "models"
    assert find_store({"OLLAMA_MODELS": str(tmp_path / "gone")}, home, "linux") is None
