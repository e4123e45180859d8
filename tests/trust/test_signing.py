"""A message counts once, from who has the key, in this session; the answer is proved as well."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest

from herd.core.state.fleet import NodeId
from herd.trust import signing
from herd.trust.signing import Sessions, Signer, Verification, answer_signature, sealed, signature, stamp_in

KEY, NODE, PATH = b"k" * 32, NodeId("mac"), "/heartbeat"


def of_a_process(seed: int = 1) -> Sessions:
    dice = Random(seed)
    return Sessions(lambda: dice.randbytes(signing.SECRET_BYTES))


def joined(speaker: Signer, sessions: Sessions) -> None:
    speaker.take(sessions.name(KEY, NODE, speaker.boot_id))


def test_genuine_messages_count_in_order_once() -> None:
    speaker, sessions = Signer(NODE, "boot", KEY), of_a_process()
    joined(speaker, sessions)
    first, second = speaker.sign(PATH, b"1"), speaker.sign(PATH, b"2")
    assert sessions.check(KEY, PATH, first, b"1") is Verification.GENUINE
    assert sessions.check(KEY, PATH, first, b"1") is Verification.REPLAYED
    assert sessions.check(KEY, PATH, second, b"2") is Verification.GENUINE
    assert sessions.check(KEY, PATH, first, b"1") is Verification.REPLAYED


def test_without_a_session_one_is_asked_for() -> None:
    speaker, sessions = Signer(NODE, "boot", KEY), of_a_process()
    assert sessions.check(KEY, PATH, speaker.sign(PATH, b""), b"") is Verification.STALE
    joined(speaker, sessions)
    assert sessions.check(KEY, PATH, speaker.sign(PATH, b""), b"") is Verification.GENUINE


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
    speaker, sessions = Signer(NODE, "boot", KEY), of_a_process()
    joined(speaker, sessions)
    stamp = dataclasses.replace(speaker.sign(PATH, b"x"), **change)  # type: ignore[arg-type]
    assert sessions.check(KEY, PATH, stamp, b"x") is Verification.FORGED


def test_another_body_path_or_key_is_forged_and_changes_nothing() -> None:
    speaker, sessions = Signer(NODE, "boot", KEY), of_a_process()
    joined(speaker, sessions)
    stamp = speaker.sign(PATH, b"x")
    assert sessions.check(KEY, PATH, stamp, b"y") is Verification.FORGED
    assert sessions.check(KEY, "/heartbeat/goodbye", stamp, b"x") is Verification.FORGED
    assert sessions.check(b"q" * 32, PATH, stamp, b"x") is Verification.FORGED
    assert sessions.check(KEY, PATH, stamp, b"x") is Verification.GENUINE


def test_what_was_recorded_before_a_restart_of_the_coordinator_is_worth_nothing() -> None:
    speaker, sessions = Signer(NODE, "boot", KEY), of_a_process()
    joined(speaker, sessions)
    recorded = [(speaker.sign(PATH, b"old"), b"old") for _ in range(3)]
    assert sessions.check(KEY, PATH, *recorded[0]) is Verification.GENUINE
    assert all(of_a_process(2).check(KEY, PATH, *one) is Verification.STALE for one in recorded)


def test_what_was_recorded_of_an_earlier_boot_is_worth_nothing() -> None:
    speaker, sessions, later = Signer(NODE, "boot", KEY), of_a_process(), Signer(NODE, "next", KEY)
    joined(speaker, sessions)
    joined(later, sessions)
    recorded = [(speaker.sign(PATH, b"old"), b"old") for _ in range(3)]
    assert all(sessions.check(KEY, PATH, *one) is Verification.GENUINE for one in recorded)
    assert sessions.check(KEY, PATH, later.sign(PATH, b""), b"") is Verification.GENUINE
    assert all(sessions.check(KEY, PATH, *one) is Verification.REPLAYED for one in recorded)


def test_two_copies_of_a_machine_have_a_session_each() -> None:
    sessions, copies = of_a_process(), [Signer(NODE, boot, KEY) for boot in ("one", "two")]
    for copy in copies:
        joined(copy, sessions)
    for _ in range(3):
        assert all(sessions.check(KEY, PATH, copy.sign(PATH, b""), b"") is Verification.GENUINE for copy in copies)


def test_when_too_many_boots_were_heard_everybody_begins_anew() -> None:
    sessions, first = of_a_process(), Signer(NODE, "first", KEY)
    joined(first, sessions)
    recorded = first.sign(PATH, b"")
    assert sessions.check(KEY, PATH, recorded, b"") is Verification.GENUINE
    for number in range(signing.SESSIONS_MAX):
        speaker = Signer(NODE, f"b{number}", KEY)
        joined(speaker, sessions)
        sessions.check(KEY, PATH, speaker.sign(PATH, b""), b"")
    assert len(sessions) <= signing.SESSIONS_MAX
    assert sessions.check(KEY, PATH, recorded, b"") is Verification.STALE
    joined(first, sessions)
    assert sessions.check(KEY, PATH, first.sign(PATH, b""), b"") is Verification.GENUINE


def test_no_two_lists_of_parts_sign_alike() -> None:
    assert signature(KEY, "ab", "c") != signature(KEY, "a", "bc") != signature(KEY, "abc")


def test_an_answer_is_the_coordinators_own_or_not() -> None:
    speaker = Signer(NODE, "boot", KEY)
    stamp = speaker.sign(PATH, b"x")
    signed = answer_signature(KEY, stamp, 200, b"ok")
    assert speaker.is_answer(stamp, 200, b"ok", signed)
    assert not speaker.is_answer(stamp, 200, b"no", signed)
    assert not speaker.is_answer(stamp, 401, b"ok", signed)
    assert not speaker.is_answer(speaker.sign(PATH, b"x"), 200, b"ok", signed)


@pytest.mark.parametrize("counter", ["", "-1", "1.0", "\u096f", "1" * 30, str(signing.COUNTER_MAX), "+1", " 1"])
def test_a_counter_that_is_none_makes_no_stamp(counter: str) -> None:
    headers = {**sealed(KEY, PATH, NODE, "b", "s", 1, b"").headers}
    assert stamp_in(headers.get) is not None
    headers[signing.COUNTER_HEADER] = counter
    assert stamp_in(headers.get) is None
