"""Tests that only new messages signed with the key are accepted, and that answers are verified."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest

from herd.core.state.fleet import NodeId
from herd.trust import signing
from herd.trust.signing import Sessions, Signer, Verification, answer_signature, read_stamp, sign_message, signature

KEY, NODE, PATH = b"k" * 32, NodeId("mac"), "/heartbeat"


def of_a_process(seed: int = 1) -> Sessions:
    rng = Random(seed)
    return Sessions(lambda: rng.randbytes(signing.SECRET_BYTES))


def start_session(signer: Signer, sessions: Sessions) -> None:
    signer.use_session(sessions.session_for(KEY, NODE, signer.boot_id))


def test_a_genuine_message_is_accepted_once_and_in_order() -> None:
    signer, sessions = Signer(NODE, "boot", KEY), of_a_process()
    start_session(signer, sessions)
    first, second = signer.sign(PATH, b"1"), signer.sign(PATH, b"2")
    assert sessions.verify(KEY, PATH, first, b"1") is Verification.GENUINE
    assert sessions.verify(KEY, PATH, first, b"1") is Verification.REPLAYED
    assert sessions.verify(KEY, PATH, second, b"2") is Verification.GENUINE
    assert sessions.verify(KEY, PATH, first, b"1") is Verification.REPLAYED


def test_a_message_without_a_session_is_stale() -> None:
    signer, sessions = Signer(NODE, "boot", KEY), of_a_process()
    assert sessions.verify(KEY, PATH, signer.sign(PATH, b""), b"") is Verification.STALE
    start_session(signer, sessions)
    assert sessions.verify(KEY, PATH, signer.sign(PATH, b""), b"") is Verification.GENUINE


@pytest.mark.parametrize(
    "change",
    [
        {"session": "0" * 32},
        {"counter": 99},
        {"signature": "0" * 64},
        {"signature": ""},
        {"signature": "\udcff"},
        {"node_id": NodeId("other")},
        {"boot_id": "other"},
    ],
)
def test_a_changed_stamp_is_forged(change: dict[str, object]) -> None:
    signer, sessions = Signer(NODE, "boot", KEY), of_a_process()
    start_session(signer, sessions)
    stamp = dataclasses.replace(signer.sign(PATH, b"x"), **change)  # type: ignore[arg-type]
    assert sessions.verify(KEY, PATH, stamp, b"x") is Verification.FORGED


def test_a_message_with_another_body_path_or_key_is_forged_and_keeps_the_counter() -> None:
    signer, sessions = Signer(NODE, "boot", KEY), of_a_process()
    start_session(signer, sessions)
    stamp = signer.sign(PATH, b"x")
    assert sessions.verify(KEY, PATH, stamp, b"y") is Verification.FORGED
    assert sessions.verify(KEY, "/heartbeat/goodbye", stamp, b"x") is Verification.FORGED
    assert sessions.verify(b"q" * 32, PATH, stamp, b"x") is Verification.FORGED
    assert sessions.verify(KEY, PATH, stamp, b"x") is Verification.GENUINE


def test_messages_recorded_before_a_restart_of_the_coordinator_are_rejected() -> None:
    signer, sessions = Signer(NODE, "boot", KEY), of_a_process()
    start_session(signer, sessions)
    recorded = [(signer.sign(PATH, b"old"), b"old") for _ in range(3)]
    assert sessions.verify(KEY, PATH, *recorded[0]) is Verification.GENUINE
    assert all(of_a_process(2).verify(KEY, PATH, *one) is Verification.STALE for one in recorded)


def test_messages_recorded_from_an_earlier_boot_are_rejected() -> None:
    signer, sessions, later = Signer(NODE, "boot", KEY), of_a_process(), Signer(NODE, "next", KEY)
    start_session(signer, sessions)
    start_session(later, sessions)
    recorded = [(signer.sign(PATH, b"old"), b"old") for _ in range(3)]
    assert all(sessions.verify(KEY, PATH, *one) is Verification.GENUINE for one in recorded)
    assert sessions.verify(KEY, PATH, later.sign(PATH, b""), b"") is Verification.GENUINE
    assert all(sessions.verify(KEY, PATH, *one) is Verification.REPLAYED for one in recorded)


def test_two_copies_of_a_machine_have_separate_sessions() -> None:
    sessions, copies = of_a_process(), [Signer(NODE, boot, KEY) for boot in ("one", "two")]
    for copy in copies:
        start_session(copy, sessions)
    for _ in range(3):
        assert all(sessions.verify(KEY, PATH, copy.sign(PATH, b""), b"") is Verification.GENUINE for copy in copies)


def test_too_many_sessions_make_every_node_start_a_new_one() -> None:
    sessions, first = of_a_process(), Signer(NODE, "first", KEY)
    start_session(first, sessions)
    recorded = first.sign(PATH, b"")
    assert sessions.verify(KEY, PATH, recorded, b"") is Verification.GENUINE
    for number in range(signing.SESSIONS_MAX):
        signer = Signer(NODE, f"b{number}", KEY)
        start_session(signer, sessions)
        sessions.verify(KEY, PATH, signer.sign(PATH, b""), b"")
    assert len(sessions) <= signing.SESSIONS_MAX
    assert sessions.verify(KEY, PATH, recorded, b"") is Verification.STALE
    start_session(first, sessions)
    assert sessions.verify(KEY, PATH, first.sign(PATH, b""), b"") is Verification.GENUINE


def test_different_lists_of_parts_have_different_signatures() -> None:
    assert signature(KEY, "ab", "c") != signature(KEY, "a", "bc") != signature(KEY, "abc")


def test_only_the_coordinators_answer_is_genuine() -> None:
    signer = Signer(NODE, "boot", KEY)
    stamp = signer.sign(PATH, b"x")
    signed = answer_signature(KEY, stamp, 200, b"ok")
    assert signer.is_genuine_answer(stamp, 200, b"ok", signed)
    assert not signer.is_genuine_answer(stamp, 200, b"no", signed)
    assert not signer.is_genuine_answer(stamp, 401, b"ok", signed)
    assert not signer.is_genuine_answer(signer.sign(PATH, b"x"), 200, b"ok", signed)


@pytest.mark.parametrize("counter", ["", "-1", "1.0", "\u096f", "1" * 30, str(signing.COUNTER_MAX), "+1", " 1"])
def test_a_stamp_with_an_invalid_counter_is_ignored(counter: str) -> None:
    headers = {**sign_message(KEY, PATH, NODE, "b", "s", 1, b"").headers}
    assert read_stamp(headers.get) is not None
    headers[signing.COUNTER_HEADER] = counter
    assert read_stamp(headers.get) is None
