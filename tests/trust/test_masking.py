"""Tests that secrets are masked in any text and that other texts stay unchanged."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.trust import keys, logins, pairing
from herd.trust.logins import Logins
from herd.trust.masking import MASK, mask_secrets

RANDOM = st.binary(min_size=64, max_size=64)
AROUND = ("{}", "key {} was sent", '{{"key": "{}"}}', "?token={}&x=1", "a\n{}\nb", "'{}'", "Authorization: Bearer {}")


@given(RANDOM, st.sampled_from(AROUND))
def test_our_secrets_are_masked_in_every_position(random: bytes, around: str) -> None:
    secrets = {
        "key": keys.create_key(random[:25])[2],
        "code": pairing.create_invitation(random[:10]).text,
        "code with address": pairing.create_invitation(random[:10], "10.0.0.1:11435").text,
        "stored code": pairing.create_invitation(random[:10]).code,
        "link": Logins().create_link(random[: logins.LINK_BYTES], 0.0),
        "signature": random[:32].hex(),
    }
    for kind, secret in secrets.items():
        secret_part = secret.rpartition("/")[2]
        assert secret_part not in mask_secrets(around.format(secret)), kind


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Basic {}",
        "authorization={}",
        "X-Api-Key: {}",
        '"x-api-key": "{}"',
        "Cookie: a=b; herd_session={}",
        "Set-Cookie: herd_session={}; HttpOnly",
        "http://user:{}@host/path",
        "sk-{}",
        "password={}",
        "X-Fleet-Signature: {}",
        '{{"headers": {{"authorization": "Bearer {}"}}}}',
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    ],
)
def test_secrets_in_other_formats_are_masked(text: str) -> None:
    secret = base64.b32encode(b"quite a secret!").decode().rstrip("=")
    assert secret not in mask_secrets(text.format(secret)) and MASK in mask_secrets(text.format(secret))


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://localhost:11435",
        "node alpha is silent for 15 s",
        "llama3.2:3b-instruct-q4_K_M",
        "request r3f2a1c-1f",
        "10.0.0.12",
        "FLEET_REQUIRE_KEY=true",
        "herd keys add NAME --scope admin",
        "2026-11-23T17:35:52Z",
        "/home/ann/.fleet-manager/latency.db",
    ],
)
def test_texts_without_secrets_are_unchanged(text: str) -> None:
    assert mask_secrets(text) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_masking_never_raises_and_is_idempotent(value: object) -> None:
    text = json.dumps(value)
    assert mask_secrets(mask_secrets(text)) == mask_secrets(text)
