"""Tests that a node and a fleet derive the same key with the right code or approval, and no one else does."""

from __future__ import annotations

from dataclasses import replace

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


def pending_node(number: int, ip: str, at: float = 0.0) -> PendingNode:
    return PendingNode(f"n{number}", f"{number:064x}", ip, at, at)


def test_one_address_has_few_pending_nodes_and_each_keeps_its_time() -> None:
    pending = PendingNodes()
    for number in range(pairing.PENDING_PER_ADDRESS_MAX):
        assert pending.add(pending_node(number, "10.0.0.1", float(number)))
    assert not pending.add(pending_node(99, "10.0.0.1", 9.0))
    assert pending.add(pending_node(99, "10.0.0.2", 9.0))
    assert pending.add(replace(pending_node(3, "10.0.0.1", 9.0), name="renamed"))
    assert [(node.name, node.since) for node in pending][3] == ("renamed", 3.0)
    pending.reject(f"{0:064x}")
    assert pending.add(pending_node(98, "10.0.0.1", 9.0))


def test_a_pending_node_that_no_longer_asks_is_dropped() -> None:
    pending = PendingNodes()
    pending.add(pending_node(1, "10.0.0.1", 0.0))
    pending.add(pending_node(2, "10.0.0.2", 0.0))
    pending.add(pending_node(1, "10.0.0.1", 599.0))
    pending.drop_old(600.0)
    assert [node.name for node in pending] == ["n1"]


@pytest.mark.parametrize("network", ["192.168.{0}.1", "2001:db8::{0:x}"])
def test_a_stranger_with_many_addresses_cannot_keep_a_node_off_the_list(network: str) -> None:
    pending = PendingNodes()
    for number in range(3 * pairing.PENDING_MAX):
        assert pending.add(pending_node(number, network.format(number), float(number)))
    assert len(pending) == pairing.PENDING_MAX
    for second in range(200, 300, 5):
        real = pending_node(9999, "10.0.0.5", float(second))
        assert pending.add(real)
        for number in range(5):
            pending.add(pending_node(1000 + second * 10 + number, network.format(number), second + 1.0))
        assert pending.find("n9999", FLEET_PUBLIC), "a node that repeats its request stays on the list"
    assert len(pending) == pairing.PENDING_MAX


def test_fingerprints_ids_and_proofs_are_short_and_distinct() -> None:
    assert fingerprint(NODE_PUBLIC, FLEET_PUBLIC) != fingerprint(FLEET_PUBLIC, NODE_PUBLIC)
    assert len(fingerprint(NODE_PUBLIC, FLEET_PUBLIC)) == 19
    assert len(fleet_id(FLEET_PUBLIC)) == 16
    assert joined_proof(b"k", FLEET_PUBLIC, NodeId("a")) != joined_proof(b"k", FLEET_PUBLIC, NodeId("b"))
