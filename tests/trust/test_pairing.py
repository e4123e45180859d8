"""Node and fleet compute one key when the code or the approval is right, and nobody else does."""

from __future__ import annotations

import pytest

from herd.core.state.fleet import NodeId
from herd.trust import pairing
from herd.trust.pairing import (
    JoinCodes,
    PendingNode,
    PendingNodes,
    code_proof,
    fingerprint,
    fleet_id,
    invitation,
    joined_proof,
    public_of,
    read_invitation,
    shared_key,
)

NODE, FLEET, STRANGER = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
NODE_PUBLIC, FLEET_PUBLIC = public_of(NODE), public_of(FLEET)


def test_both_sides_compute_the_same_key_and_a_stranger_does_not() -> None:
    ours = shared_key(NODE, FLEET_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "CODE")
    assert ours is not None and len(ours) == pairing.KEY_BYTES
    assert ours == shared_key(FLEET, NODE_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "CODE")
    assert ours != shared_key(FLEET, NODE_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "OTHER")
    assert ours != shared_key(STRANGER, NODE_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "CODE")


@pytest.mark.parametrize("public", ["", "00" * 32, "01" + "00" * 31, "zz" * 32, "11" * 31, "11" * 33, "11" * 32 + "\n"])
def test_what_is_no_public_key_makes_no_key(public: str) -> None:
    """Zero and one are points of small order (RFC 7748, section 6.1)."""
    assert shared_key(NODE, public, NODE_PUBLIC, public, "") is None


def test_a_code_is_read_as_people_paste_it() -> None:
    made = invitation(b"0123456789", "192.168.1.10:11435")
    assert made.text.startswith("192.168.1.10:11435/")
    for text in (made.text, made.text.lower(), f"  {made.text}\n", made.text.replace("-", "")):
        assert read_invitation(text) == made
    assert read_invitation(invitation(b"0123456789").text) == invitation(b"0123456789")
    assert read_invitation(invitation(b"0123456789", "[fe80::1]:11435").text) == invitation(
        b"0123456789", "[fe80::1]:11435"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAAA",
        "AAAA-BBBB-CCCC-DDD1",
        "http://x/AAAA-BBBB-CCCC-DDDD",
        "AAAA-BBBB-CCCC-DDDD-EEEE",
        "a b/AAAA-BBBB-CCCC-DDDD",
    ],
)
def test_what_is_no_code_is_none(text: str) -> None:
    assert read_invitation(text) is None


def test_a_code_opens_for_ten_minutes_and_only_with_its_proof() -> None:
    codes = JoinCodes()
    codes.open("CODE", at=0.0)
    proof = code_proof("CODE", "mac", NODE_PUBLIC)
    assert codes.proved(proof, "mac", NODE_PUBLIC, at=599.0) == "CODE"
    assert codes.proved(proof, "other", NODE_PUBLIC, at=1.0) == ""
    assert codes.proved(proof, "mac", FLEET_PUBLIC, at=1.0) == ""
    assert codes.proved(code_proof("WRONG", "mac", NODE_PUBLIC), "mac", NODE_PUBLIC, at=1.0) == ""
    assert codes.proved(proof, "mac", NODE_PUBLIC, at=600.0) == ""
    assert len(codes) == 0


def test_the_local_code_is_open_for_ever_where_it_is_given() -> None:
    proof = code_proof("LOCAL", "mac", NODE_PUBLIC)
    assert JoinCodes().proved(proof, "mac", NODE_PUBLIC, at=1e9, local_code="LOCAL") == "LOCAL"
    assert JoinCodes().proved(proof, "mac", NODE_PUBLIC, at=1e9) == ""


def test_only_so_many_codes_are_open() -> None:
    codes = JoinCodes()
    for number in range(pairing.CODES_MAX + 3):
        codes.open(f"C{number}", at=0.0)
    assert len(codes) == pairing.CODES_MAX


def test_an_approved_applicant_gets_in_once() -> None:
    applicants = PendingNodes()
    assert applicants.apply(PendingNode("mac", NODE_PUBLIC, "10.0.0.5", 1.0))
    assert not applicants.take_approved(NODE_PUBLIC)
    [named] = applicants.named("mac", FLEET_PUBLIC)
    assert named in applicants.named(fingerprint(NODE_PUBLIC, FLEET_PUBLIC).lower(), FLEET_PUBLIC)
    applicants.approve(NODE_PUBLIC)
    assert len(applicants) == 0
    assert applicants.take_approved(NODE_PUBLIC)
    assert not applicants.take_approved(NODE_PUBLIC)


def test_two_who_claim_a_name_are_told_apart_by_fingerprint() -> None:
    applicants = PendingNodes()
    for private in (NODE, STRANGER):
        applicants.apply(PendingNode("mac", public_of(private), "10.0.0.5", 1.0))
    assert len(applicants.named("mac", FLEET_PUBLIC)) == 2
    [one] = applicants.named(fingerprint(public_of(STRANGER), FLEET_PUBLIC), FLEET_PUBLIC)
    assert one.public == public_of(STRANGER)


def test_only_so_many_may_wait_and_who_waits_keeps_its_time() -> None:
    applicants = PendingNodes()
    for number in range(pairing.PENDING_MAX):
        assert applicants.apply(PendingNode("n", f"{number:064x}", "10.0.0.1", float(number)))
    assert not applicants.apply(PendingNode("n", "f" * 64, "10.0.0.1", 0.0))
    assert applicants.apply(PendingNode("renamed", f"{5:064x}", "10.0.0.2", 99.0))
    assert next(one for one in applicants if one.public == f"{5:064x}").since == 5.0
    applicants.reject(f"{5:064x}")
    assert applicants.apply(PendingNode("n", "f" * 64, "10.0.0.1", 0.0))


def test_what_both_sides_show_is_the_same_and_short() -> None:
    assert fingerprint(NODE_PUBLIC, FLEET_PUBLIC) != fingerprint(FLEET_PUBLIC, NODE_PUBLIC)
    assert len(fingerprint(NODE_PUBLIC, FLEET_PUBLIC)) == 19
    assert len(fleet_id(FLEET_PUBLIC)) == 16
    assert joined_proof(b"k", FLEET_PUBLIC, NodeId("a")) != joined_proof(b"k", FLEET_PUBLIC, NodeId("b"))
