"""Tests the trust functions with arbitrary texts and bytes: they decide and do not raise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from herd.trust.addresses import NetworkZone, node_address_problem, zone_of
from herd.trust.browsers import AllowedNames, Effect, content_refusal, host_refusal, is_same_origin, origin_refusal
from herd.trust.keys import Keyring, split_key
from herd.trust.pairing import JoinCodes, parse_invitation, public_of, shared_key
from herd.trust.signing import (
    BOOT_HEADER,
    COUNTER_HEADER,
    NODE_HEADER,
    SESSION_HEADER,
    SIGNATURE_HEADER,
    Sessions,
    Verification,
    read_stamp,
)

ANYTHING = st.text(max_size=300)
HEADER = st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))
URLISH = st.from_regex(r"(https?|null|file|app)?(:/{0,3})?[a-z0-9.\[\]@%:\\/#?-]{0,40}", fullmatch=True)
NAMES = AllowedNames.of(["herd.example"], ["https://ours.example"])


@given(ANYTHING | URLISH, st.booleans())
def test_only_a_loopback_address_is_this_machine(text: str, is_forwarded: bool) -> None:
    if zone_of(text, is_forwarded) is NetworkZone.THIS_MACHINE:
        assert not is_forwarded and (text.startswith("127.") or "::1" in text or "127." in text)
    assert node_address_problem(text, 0)


@given(HEADER | URLISH, HEADER | URLISH, st.sampled_from(Effect))
def test_only_our_pages_and_allowed_origins_may_change_state(origin: str, host: str, effect: Effect) -> None:
    host_refusal(host, NAMES)
    content_refusal(origin, is_browser=True)
    refusal = origin_refusal(origin, host, effect, NAMES)
    if refusal is None and effect is Effect.CHANGES and origin:
        assert is_same_origin(origin, host) or origin.lower().rstrip("/") in NAMES.origins


@given(ANYTHING)
def test_no_text_is_a_valid_key_of_an_empty_keyring(text: str) -> None:
    split_key(text)
    assert Keyring().find(text, 0.0) is None


@given(ANYTHING | st.from_regex(r"[0-9a-f]{64}", fullmatch=True), ANYTHING)
def test_the_key_exchange_does_not_raise_for_any_public_key(public: str, code: str) -> None:
    private = b"\x07" * 32
    shared_key(private, public, public, public_of(private), code.encode("utf-8", "replace").decode())
    parse_invitation(code)
    assert JoinCodes().find(code, public, public, 0.0) == ""


@given(HEADER, HEADER, HEADER, HEADER | st.from_regex(r"[0-9]{0,22}", fullmatch=True), HEADER, st.binary(max_size=50))
def test_no_stamp_without_the_key_is_genuine(
    node: str, boot: str, session: str, counter: str, signed: str, body: bytes
) -> None:
    headers = {
        NODE_HEADER: node,
        BOOT_HEADER: boot,
        SESSION_HEADER: session,
        COUNTER_HEADER: counter,
        SIGNATURE_HEADER: signed,
    }
    stamp = read_stamp(headers.get)
    if stamp is not None:
        assert Sessions(lambda: b"s" * 32).verify(b"k" * 32, "/heartbeat", stamp, body) is Verification.FORGED
