"""How a person gets into the dashboard: a link that works once, or a key, then a session. Knows no browser and no clock.

Only digests are kept, and only in memory: a restart ends every session, and `herd dashboard` prints a new link. A session
that a key opened may what that key may, and ends with it.
"""

from __future__ import annotations

import hashlib

LINK_BYTES = 20
LINK_LIFE_S = 300.0
SESSION_LIFE_S = 7 * 86400.0
LINKS_MAX = 16
SESSIONS_MAX = 64
"""The oldest end when more people log in."""
EVERYTHING = ""
"""In the place of a key's id: a session that a link opened."""
TRIES_MAX = 10
"""Wrong keys from one address within `TRIES_WITHIN_S`; then it has to wait."""
TRIES_WITHIN_S = 60.0
TRIERS_MAX = 1024
"""Addresses remembered; the oldest are forgotten first."""


class Logins:
    def __init__(self) -> None:
        self._links: dict[str, float] = {}
        self._sessions: dict[str, float] = {}
        self._keys: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def link(self, random: bytes, at: float) -> str:
        """A token to be used once, within five minutes. `random`: `LINK_BYTES` unguessable bytes."""
        return _kept(self._links, random, at + LINK_LIFE_S, at, LINKS_MAX)

    def redeem(self, token: str, random: bytes, at: float) -> str | None:
        """The session that this token opens; None where it is unknown, used or old."""
        ends_at = self._links.pop(_digest(token), None)
        if ends_at is None or at >= ends_at:
            return None
        return self.open(random, at, EVERYTHING)

    def open(self, random: bytes, at: float, key_id: str) -> str:
        """A session that may what this key may."""
        session = _kept(self._sessions, random, at + SESSION_LIFE_S, at, SESSIONS_MAX)
        self._keys = {digest: of for digest, of in self._keys.items() if digest in self._sessions}
        self._keys[_digest(session)] = key_id
        return session

    def key_of(self, session: str, at: float) -> str | None:
        """The id of the key that opened this session, or `EVERYTHING`; None where it is unknown or over."""
        digest = _digest(session)
        return self._keys.get(digest) if at < self._sessions.get(digest, 0.0) else None

    def close(self, session: str) -> None:
        self._sessions.pop(_digest(session), None)


class LoginAttempts:
    """Who tried how many wrong keys lately. A key cannot be guessed; this keeps the log short and the answer plain."""

    def __init__(self) -> None:
        self._wrong: dict[str, tuple[float, int]] = {}

    def wait_s(self, ip: str, at: float) -> float:
        """Seconds until this address may try again; 0 where it may now."""
        since, count = self._wrong.get(ip, (at, 0))
        return max(0.0, since + TRIES_WITHIN_S - at) if count >= TRIES_MAX else 0.0

    def failed(self, ip: str, at: float) -> None:
        since, count = self._wrong.pop(ip, (at, 0))
        if at - since >= TRIES_WITHIN_S:
            since, count = at, 0
        while len(self._wrong) >= TRIERS_MAX:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[ip] = since, count + 1


def _kept(among: dict[str, float], random: bytes, ends_at: float, at: float, most: int) -> str:
    assert len(random) == LINK_BYTES
    for digest in [digest for digest, ends in among.items() if ends <= at]:
        del among[digest]
    if len(among) >= most:
        del among[next(iter(among))]
    token = random.hex()
    among[_digest(token)] = ends_at
    return token


def _digest(token: str) -> str:
    """A look-up by digest tells a stopwatch nothing about the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
