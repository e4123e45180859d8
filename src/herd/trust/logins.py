"""How a person gets into the dashboard: a link that works once, then a session. Knows no browser and no clock.

Only digests are kept, and only in memory: a restart ends every session, and `herd dashboard` prints a new link.
"""

from __future__ import annotations

import hashlib

LINK_BYTES = 20
LINK_LIFE_S = 300.0
SESSION_LIFE_S = 7 * 86400.0
LINKS_MAX = 16
SESSIONS_MAX = 64
"""The oldest end when more people log in."""


class Logins:
    def __init__(self) -> None:
        self._links: dict[str, float] = {}
        self._sessions: dict[str, float] = {}

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
        return _kept(self._sessions, random, at + SESSION_LIFE_S, at, SESSIONS_MAX)

    def is_open(self, session: str, at: float) -> bool:
        return at < self._sessions.get(_digest(session), 0.0)

    def close(self, session: str) -> None:
        self._sessions.pop(_digest(session), None)


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
