"""A login link works once and soon; a session ends with its time."""

from __future__ import annotations

from herd.trust import logins
from herd.trust.logins import EVERYTHING, LoginAttempts, Logins


def random(seed: int) -> bytes:
    return seed.to_bytes(logins.LINK_BYTES, "big")


def test_a_link_opens_one_session() -> None:
    ours = Logins()
    token = ours.link(random(1), 0.0)
    session = ours.redeem(token, random(2), 10.0)
    assert session is not None and ours.key_of(session, 10.0) == EVERYTHING
    assert ours.redeem(token, random(3), 10.0) is None
    assert ours.key_of(token, 10.0) is None


def test_links_and_sessions_end() -> None:
    ours = Logins()
    assert ours.redeem(ours.link(random(1), 0.0), random(2), logins.LINK_LIFE_S) is None
    session = ours.redeem(ours.link(random(3), 0.0), random(4), 1.0) or ""
    assert ours.key_of(session, logins.SESSION_LIFE_S) == EVERYTHING
    assert ours.key_of(session, 1.0 + logins.SESSION_LIFE_S) is None
    other = ours.redeem(ours.link(random(5), 0.0), random(6), 1.0) or ""
    ours.close(other)
    assert ours.key_of(other, 1.0) is None


def test_what_nobody_was_given_opens_nothing() -> None:
    ours = Logins()
    assert ours.redeem("", random(1), 0.0) is None
    assert ours.key_of("", 0.0) is None and ours.key_of("x\udcff", 0.0) is None


def test_links_and_sessions_are_limited() -> None:
    ours = Logins()
    for seed in range(200):
        assert ours.redeem(ours.link(random(seed), 0.0), random(1000 + seed), 0.0)
    assert len(ours) == logins.SESSIONS_MAX
    assert len(ours._keys) == logins.SESSIONS_MAX


def test_a_session_knows_the_key_that_opened_it() -> None:
    ours = Logins()
    session = ours.open(random(1), 0.0, "abc")
    assert ours.key_of(session, 1.0) == "abc"
    assert ours.key_of(session, logins.SESSION_LIFE_S) is None


def test_after_ten_wrong_keys_an_address_waits_and_others_do_not() -> None:
    tries = LoginAttempts()
    for _ in range(logins.TRIES_MAX):
        assert tries.wait_s("10.0.0.1", 5.0) == 0.0
        tries.failed("10.0.0.1", 5.0)
    assert tries.wait_s("10.0.0.1", 6.0) == 59.0
    assert tries.wait_s("10.0.0.2", 6.0) == 0.0
    assert tries.wait_s("10.0.0.1", 65.0) == 0.0
    tries.failed("10.0.0.1", 65.0)
    assert tries.wait_s("10.0.0.1", 65.0) == 0.0


def test_addresses_that_tried_are_limited() -> None:
    tries = LoginAttempts()
    for number in range(3 * logins.TRIERS_MAX):
        tries.failed(str(number), 0.0)
    assert len(tries._wrong) == logins.TRIERS_MAX
