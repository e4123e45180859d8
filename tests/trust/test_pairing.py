"""Tests that a node and a fleet derive the same key with the right code or approval, and no one else does."""

from __future__ import annotations

import pytest

from herd.core.state.fleet import NodeId
from herd.trust import pairing
from herd.trust.pairing import (
    JoinCodes,
    PendingNode,
    PendingNodes,
    code_proof,
    create_invitation,
    fingerprint,
    fleet_id,
    joined_proof,
    parse_invitation,
    public_of,
    shared_key,
)

NODE, FLEET, STRANGER = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
NODE_PUBLIC, FLEET_PUBLIC = public_of(NODE), public_of(FLEET)


def test_both_sides_derive_the_same_key_and_another_machine_does_not() -> None:
    ours = shared_key(NODE, FLEET_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "CODE")
    assert ours is not None and len(ours) == pairing.KEY_BYTES
    assert ours == shared_key(FLEET, NODE_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "CODE")
    assert ours != shared_key(FLEET, NODE_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "OTHER")
    assert ours != shared_key(STRANGER, NODE_PUBLIC, NODE_PUBLIC, FLEET_PUBLIC, "CODE")


@pytest.mark.parametrize("public", ["", "00" * 32, "01" + "00" * 31, "zz" * 32, "11" * 31, "11" * 33, "11" * 32 + "\n"])
def test_an_invalid_public_key_gives_no_shared_key(public: str) -> None:
    """Zero and one are points of small order (RFC 7748, section 6.1)."""
    assert shared_key(NODE, public, NODE_PUBLIC, public, "") is None


def test_a_pasted_invitation_is_read_in_any_case_with_or_without_dashes() -> None:
    created = create_invitation(b"0123456789", "192.168.1.10:11435")
    assert created.text.startswith("192.168.1.10:11435/")
    for text in (created.text, created.text.lower(), f"  {created.text}\n", created.text.replace("-", "")):
        assert parse_invitation(text) == created
    assert parse_invitation(create_invitation(b"0123456789").text) == create_invitation(b"0123456789")
    assert parse_invitation(create_invitation(b"0123456789", "[fe80::1]:11435").text) == create_invitation(
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
def test_a_text_that_is_not_an_invitation_is_none(text: str) -> None:
    assert parse_invitation(text) is None


def test_a_code_is_valid_for_ten_minutes_and_only_with_its_proof() -> None:
    codes = JoinCodes()
    codes.add("CODE", at=0.0)
    proof = code_proof("CODE", "mac", NODE_PUBLIC)
    assert codes.find(proof, "mac", NODE_PUBLIC, at=599.0) == "CODE"
    assert codes.find(proof, "other", NODE_PUBLIC, at=1.0) == ""
    assert codes.find(proof, "mac", FLEET_PUBLIC, at=1.0) == ""
    assert codes.find(code_proof("WRONG", "mac", NODE_PUBLIC), "mac", NODE_PUBLIC, at=1.0) == ""
    assert codes.find(proof, "mac", NODE_PUBLIC, at=600.0) == ""
    assert len(codes) == 0


def test_the_local_code_does_not_expire() -> None:
    proof = code_proof("LOCAL", "mac", NODE_PUBLIC)
    assert JoinCodes().find(proof, "mac", NODE_PUBLIC, at=1e9, local_code="LOCAL") == "LOCAL"
    assert JoinCodes().find(proof, "mac", NODE_PUBLIC, at=1e9) == ""


def test_the_number_of_valid_codes_is_limited() -> None:
    codes = JoinCodes()
    for number in range(pairing.CODES_MAX + 3):
        codes.add(f"C{number}", at=0.0)
    assert len(codes) == pairing.CODES_MAX


def test_an_approved_node_joins_once() -> None:
    pending = PendingNodes()
    assert pending.add(PendingNode("mac", NODE_PUBLIC, "10.0.0.5", 1.0))
    assert not pending.take_approved(NODE_PUBLIC)
    [found] = pending.find("mac", FLEET_PUBLIC)
    assert found in pending.find(fingerprint(NODE_PUBLIC, FLEET_PUBLIC).lower(), FLEET_PUBLIC)
    pending.approve(NODE_PUBLIC)
    assert len(pending) == 0
    assert pending.take_approved(NODE_PUBLIC)
    assert not pending.take_approved(NODE_PUBLIC)


def test_two_nodes_with_the_same_name_have_different_fingerprints() -> None:
    pending = PendingNodes()
    for private in (NODE, STRANGER):
        pending.add(PendingNode("mac", public_of(private), "10.0.0.5", 1.0))
    assert len(pending.find("mac", FLEET_PUBLIC)) == 2
    [found] = pending.find(fingerprint(public_of(STRANGER), FLEET_PUBLIC), FLEET_PUBLIC)
    assert found.public == public_of(STRANGER)


def test_the_number_of_pending_nodes_is_limited_and_each_keeps_its_time() -> None:
    pending = PendingNodes()
    for number in range(pairing.PENDING_MAX):
        assert pending.add(PendingNode("n", f"{number:064x}", "10.0.0.1", float(number)))
    assert not pending.add(PendingNode("n", "f" * 64, "10.0.0.1", 0.0))
    assert pending.add(PendingNode("renamed", f"{5:064x}", "10.0.0.2", 99.0))
    assert next(node for node in pending if node.public == f"{5:064x}").since == 5.0
    pending.reject(f"{5:064x}")
    assert pending.add(PendingNode("n", "f" * 64, "10.0.0.1", 0.0))


def test_fingerprints_ids_and_proofs_are_short_and_distinct() -> None:
    assert fingerprint(NODE_PUBLIC, FLEET_PUBLIC) != fingerprint(FLEET_PUBLIC, NODE_PUBLIC)
    assert len(fingerprint(NODE_PUBLIC, FLEET_PUBLIC)) == 19
    assert len(fleet_id(FLEET_PUBLIC)) == 16
    assert joined_proof(b"k", FLEET_PUBLIC, NodeId("a")) != joined_proof(b"k", FLEET_PUBLIC, NodeId("b"))
