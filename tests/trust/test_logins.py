"""Tests one-time login links, the end of sessions, and the limit of wrong keys."""

from __future__ import annotations

from herd.trust import logins
from herd.trust.logins import OPENED_BY_LINK, LoginAttempts, Logins


def random(seed: int) -> bytes:
    return seed.to_bytes(logins.LINK_BYTES, "big")


def test_a_link_opens_one_session() -> None:
    ours = Logins()
    token = ours.create_link(random(1), 0.0)
    session = ours.redeem_link(token, random(2), 10.0)
    assert session is not None and ours.key_id_of(session, 10.0) == OPENED_BY_LINK
    assert ours.redeem_link(token, random(3), 10.0) is None
    assert ours.key_id_of(token, 10.0) is None


def test_links_and_sessions_expire() -> None:
    ours = Logins()
    assert ours.redeem_link(ours.create_link(random(1), 0.0), random(2), logins.LINK_LIFE_S) is None
    session = ours.redeem_link(ours.create_link(random(3), 0.0), random(4), 1.0) or ""
    assert ours.key_id_of(session, logins.SESSION_LIFE_S) == OPENED_BY_LINK
    assert ours.key_id_of(session, 1.0 + logins.SESSION_LIFE_S) is None
    other = ours.redeem_link(ours.create_link(random(5), 0.0), random(6), 1.0) or ""
    ours.close_session(other)
    assert ours.key_id_of(other, 1.0) is None


def test_an_unknown_token_is_rejected() -> None:
    ours = Logins()
    assert ours.redeem_link("", random(1), 0.0) is None
    assert ours.key_id_of("", 0.0) is None and ours.key_id_of("x\udcff", 0.0) is None


def test_links_and_sessions_are_limited() -> None:
    ours = Logins()
    for seed in range(200):
        assert ours.redeem_link(ours.create_link(random(seed), 0.0), random(1000 + seed), 0.0)
    assert len(ours) == logins.SESSIONS_MAX
    assert len(ours._key_ids) == logins.SESSIONS_MAX


def test_a_session_has_the_id_of_the_key_that_opened_it() -> None:
    ours = Logins()
    session = ours.open_session(random(1), 0.0, "abc")
    assert ours.key_id_of(session, 1.0) == "abc"
    assert ours.key_id_of(session, logins.SESSION_LIFE_S) is None


def test_after_ten_wrong_keys_only_that_address_has_to_wait() -> None:
    tries = LoginAttempts()
    for _ in range(logins.TRIES_MAX):
        assert tries.wait_s("10.0.0.1", 5.0) == 0.0
        tries.record_failure("10.0.0.1", 5.0)
    assert tries.wait_s("10.0.0.1", 6.0) == 59.0
    assert tries.wait_s("10.0.0.2", 6.0) == 0.0
    assert tries.wait_s("10.0.0.1", 65.0) == 0.0
    tries.record_failure("10.0.0.1", 65.0)
    assert tries.wait_s("10.0.0.1", 65.0) == 0.0


def test_the_number_of_tracked_addresses_is_limited() -> None:
    tries = LoginAttempts()
    for number in range(3 * logins.TRIERS_MAX):
        tries.record_failure(str(number), 0.0)
    assert len(tries._wrong) == logins.TRIERS_MAX
