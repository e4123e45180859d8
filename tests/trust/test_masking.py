"""Whatever would open something is gone from a text that is handed on, and what is left can still be read."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.trust import keys, logins, pairing
from herd.trust.logins import Logins
from herd.trust.masking import MASK, masked

RANDOM = st.binary(min_size=64, max_size=64)
AROUND = ("{}", "key {} was sent", '{{"key": "{}"}}', "?token={}&x=1", "a\n{}\nb", "'{}'", "Authorization: Bearer {}")


@given(RANDOM, st.sampled_from(AROUND))
def test_what_opens_something_is_gone_wherever_it_stands(random: bytes, around: str) -> None:
    secrets = {
        "key": keys.minted(random[:25])[2],
        "code": pairing.invitation(random[:10]).text,
        "placed code": pairing.invitation(random[:10], "10.0.0.1:11435").text,
        "kept code": pairing.invitation(random[:10]).code,
        "link": Logins().link(random[: logins.LINK_BYTES], 0.0),
        "signature": random[:32].hex(),
    }
    for kind, secret in secrets.items():
        bare = secret.rpartition("/")[2]
        assert bare not in masked(around.format(secret)), kind


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
def test_other_peoples_ways_are_known_too(text: str) -> None:
    secret = base64.b32encode(b"quite a secret!").decode().rstrip("=")
    assert secret not in masked(text.format(secret)) and MASK in masked(text.format(secret))


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
def test_what_helps_stays(text: str) -> None:
    assert masked(text) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_text_is_masked_without_a_failure_and_twice_is_once(value: object) -> None:
    text = json.dumps(value)
    assert masked(masked(text)) == masked(text)
