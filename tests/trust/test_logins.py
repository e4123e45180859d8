"""A login link works once and soon; a session ends with its time."""

from __future__ import annotations

from herd.trust import logins
from herd.trust.logins import Logins


def random(seed: int) -> bytes:
    return seed.to_bytes(logins.LINK_BYTES, "big")


def test_a_link_opens_one_session() -> None:
    ours = Logins()
    token = ours.link(random(1), 0.0)
    session = ours.redeem(token, random(2), 10.0)
    assert session is not None and ours.is_open(session, 10.0)
    assert ours.redeem(token, random(3), 10.0) is None
    assert not ours.is_open(token, 10.0)


def test_links_and_sessions_end() -> None:
    ours = Logins()
    assert ours.redeem(ours.link(random(1), 0.0), random(2), logins.LINK_LIFE_S) is None
    session = ours.redeem(ours.link(random(3), 0.0), random(4), 1.0) or ""
    assert ours.is_open(session, logins.SESSION_LIFE_S)
    assert not ours.is_open(session, 1.0 + logins.SESSION_LIFE_S)
    other = ours.redeem(ours.link(random(5), 0.0), random(6), 1.0) or ""
    ours.close(other)
    assert not ours.is_open(other, 1.0)


def test_what_nobody_was_given_opens_nothing() -> None:
    ours = Logins()
    assert ours.redeem("", random(1), 0.0) is None
    assert not ours.is_open("", 0.0) and not ours.is_open("x\udcff", 0.0)


def test_links_and_sessions_are_limited() -> None:
    ours = Logins()
    for seed in range(200):
        assert ours.redeem(ours.link(random(seed), 0.0), random(1000 + seed), 0.0)
    assert len(ours) == logins.SESSIONS_MAX
