"""Whatever bytes and texts arrive, the rules decide and do not fail. Hypothesis prints the smallest input that breaks one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from herd.trust.addresses import Nearness, nearness, node_problem
from herd.trust.browsers import AllowedNames, content_refusal, host_refusal, is_same_origin, origin_refusal
from herd.trust.keys import Keyring, split
from herd.trust.pairing import JoinCodes, public_of, read_invitation, shared_key
from herd.trust.signing import (
    BOOT_HEADER,
    COUNTER_HEADER,
    NODE_HEADER,
    SESSION_HEADER,
    SIGNATURE_HEADER,
    Sessions,
    Verification,
    stamp_in,
)

ANYTHING = st.text(max_size=300)
HEADER = st.binary(max_size=300).map(lambda raw: raw.decode("latin-1"))
URLISH = st.from_regex(r"(https?|null|file|app)?(:/{0,3})?[a-z0-9.\[\]@%:\\/#?-]{0,40}", fullmatch=True)
NAMES = AllowedNames.of(["herd.example"], ["https://ours.example"])


@given(ANYTHING | URLISH, st.booleans())
def test_an_address_is_near_only_when_it_is_one(text: str, is_forwarded: bool) -> None:
    if nearness(text, is_forwarded) is Nearness.HERE:
        assert not is_forwarded and (text.startswith("127.") or "::1" in text or "127." in text)
    assert node_problem(text, 0)


@given(HEADER | URLISH, HEADER | URLISH, st.booleans())
def test_a_page_is_ours_only_when_its_host_is(origin: str, host: str, changes_state: bool) -> None:
    host_refusal(host, NAMES)
    content_refusal(origin, is_browser=True)
    refusal = origin_refusal(origin, host, changes_state, NAMES)
    if refusal is None and changes_state and origin:
        assert is_same_origin(origin, host) or origin.lower().rstrip("/") in NAMES.origins


@given(ANYTHING)
def test_no_text_is_a_key_of_nobody(text: str) -> None:
    split(text)
    assert Keyring().find(text, 0.0) is None


@given(ANYTHING | st.from_regex(r"[0-9a-f]{64}", fullmatch=True), ANYTHING)
def test_no_public_half_breaks_the_key_agreement(public: str, code: str) -> None:
    private = b"\x07" * 32
    shared_key(private, public, public, public_of(private), code.encode("utf-8", "replace").decode())
    read_invitation(code)
    assert JoinCodes().proved(code, public, public, 0.0) == ""


@given(HEADER, HEADER, HEADER, HEADER | st.from_regex(r"[0-9]{0,22}", fullmatch=True), HEADER, st.binary(max_size=50))
def test_no_stamp_of_a_stranger_is_genuine(
    node: str, boot: str, session: str, counter: str, signed: str, body: bytes
) -> None:
    headers = {
        NODE_HEADER: node,
        BOOT_HEADER: boot,
        SESSION_HEADER: session,
        COUNTER_HEADER: counter,
        SIGNATURE_HEADER: signed,
    }
    stamp = stamp_in(headers.get)
    if stamp is not None:
        assert Sessions(lambda: b"s" * 32).check(b"k" * 32, "/heartbeat", stamp, body) is Verification.FORGED
