"""Tests that only the exact text of a valid key is accepted."""

from __future__ import annotations

import dataclasses

import pytest

from herd.trust.keys import ID_BYTES, SECRET_BYTES, ApiKey, Keyring, Scope, create_key, has_key_prefix


def a_key(seed: int = 1, **changes: object) -> tuple[ApiKey, str]:
    key_id, digest, shown = create_key(bytes([seed]) * (ID_BYTES + SECRET_BYTES))
    key = ApiKey(id=key_id, name="app", digest=digest, scopes=frozenset({Scope.CHAT}), created_at=100.0)
    return dataclasses.replace(key, **changes), shown  # type: ignore[arg-type]


def test_a_presented_key_finds_its_record() -> None:
    (first, first_text), (second, second_text) = a_key(1), a_key(2)
    ring = Keyring([first, second])
    assert ring.find(first_text, 200.0) is first
    assert ring.find(second_text, 200.0) is second


def test_the_stored_record_does_not_contain_the_secret() -> None:
    key, shown = a_key()
    assert shown.rpartition("_")[2] not in repr(key)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[:-1],
        lambda s: s + "a",
        lambda s: s.upper(),
        lambda s: s.replace("_", "-"),
        lambda s: s.rpartition("_")[0] + "_",
        lambda s: "",
        lambda s: "herd_",
        lambda s: s * 10,
        lambda s: s[:-1] + "\udcff",
    ],
)
def test_a_text_that_differs_from_the_key_is_rejected(change: object) -> None:
    key, shown = a_key()
    assert callable(change)
    assert Keyring([key]).find(change(shown), 200.0) is None


def test_an_unknown_id_with_an_empty_secret_is_rejected() -> None:
    assert Keyring().find("herd_abc_", 0.0) is None
    assert Keyring().find("", 0.0) is None


def test_expired_and_revoked_keys_are_rejected() -> None:
    expired, shown = a_key(expires_at=150.0)
    assert Keyring([expired]).find(shown, 149.0) is expired
    assert Keyring([expired]).find(shown, 150.0) is None
    revoked, shown = a_key(revoked_at=120.0)
    assert Keyring([revoked]).find(shown, 149.0) is None
    assert not Keyring([revoked, expired]).has_valid(150.0)


def test_models_are_matched_by_name_and_pattern() -> None:
    key, _ = a_key(models=("llama*", "qwen3:8b"))
    assert key.allows_model("llama3:8b") and key.allows_model("qwen3:8b")
    assert not key.allows_model("qwen3:14b")
    assert a_key()[0].allows_model("anything")
    assert a_key(models=("my model [q4]:latest",))[0].allows_model("my model [q4]:latest")


def test_placeholders_of_other_clients_do_not_have_our_prefix() -> None:
    assert has_key_prefix("herd_x")
    assert not any(has_key_prefix(text) for text in ("ollama", "sk-none", "", "not-needed"))
