"""Manages dashboard logins: a one-time link or an API key opens a session.

Only digests are stored, and only in memory: a restart ends every session, and `herd dashboard` prints a new link. A
session that was opened with a key has the permissions of that key and ends when the key becomes invalid.
"""

from __future__ import annotations

import hashlib

from herd.bounded import BoundedDict

LINK_BYTES = 20
LINK_LIFE_S = 300.0
SESSION_LIFE_S = 7 * 86400.0
LINKS_MAX = 16
SESSIONS_MAX = 64
"""A further login ends the oldest session."""
OPENED_BY_LINK = ""
"""Instead of a key's id: the session was opened with a link and may do everything."""
TRIES_MAX = 10
"""Wrong keys from one address within `TRIES_WITHIN_S`; after that many the address has to wait."""
TRIES_WITHIN_S = 60.0
TRIERS_MAX = 1024
"""Addresses with wrong keys that are tracked; the oldest is dropped first."""


class Logins:
    def __init__(self) -> None:
        self._links = BoundedDict[str, float](LINKS_MAX)
        self._sessions = BoundedDict[str, float](SESSIONS_MAX)
        self._key_ids: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def create_link(self, random: bytes, at: float) -> str:
        """A token that can be used once, within five minutes. `random`: `LINK_BYTES` unguessable bytes."""
        return _add_token(self._links, random, at + LINK_LIFE_S, at)

    def redeem_link(self, token: str, random: bytes, at: float) -> str | None:
        """Opens a session; None if the token is unknown, used or expired."""
        ends_at = self._links.pop(_digest(token), None)
        if ends_at is None or at >= ends_at:
            return None
        return self.open_session(random, at, OPENED_BY_LINK)

    def open_session(self, random: bytes, at: float, key_id: str) -> str:
        """Opens a session with the permissions of this key."""
        session = _add_token(self._sessions, random, at + SESSION_LIFE_S, at)
        self._key_ids = {digest: key_id for digest, key_id in self._key_ids.items() if digest in self._sessions}
        self._key_ids[_digest(session)] = key_id
        return session

    def key_id_of(self, session: str, at: float) -> str | None:
        """The id of the key that opened this session, or `OPENED_BY_LINK`; None if it is unknown or has expired."""
        digest = _digest(session)
        return self._key_ids.get(digest) if at < self._sessions.get(digest, 0.0) else None

    def close_session(self, session: str) -> None:
        self._sessions.pop(_digest(session), None)


class LoginAttempts:
    """Counts wrong keys or codes for each address. They cannot be guessed; the limit keeps the logs short."""

    def __init__(self, tries_max: int = TRIES_MAX) -> None:
        self._tries_max = tries_max
        self._wrong = BoundedDict[str, tuple[float, int]](TRIERS_MAX)

    def wait_s(self, ip: str, at: float) -> float:
        """Seconds until this address may try again; 0 if it may try now."""
        since, count = self._wrong.get(ip, (at, 0))
        return max(0.0, since + TRIES_WITHIN_S - at) if count >= self._tries_max else 0.0

    def record_failure(self, ip: str, at: float) -> None:
        since, count = self._wrong.pop(ip, (at, 0))
        if at - since >= TRIES_WITHIN_S:
            since, count = at, 0
        self._wrong[ip] = since, count + 1


def _add_token(tokens: BoundedDict[str, float], random: bytes, ends_at: float, at: float) -> str:
    assert len(random) == LINK_BYTES
    for digest in [digest for digest, ends in tokens.items() if ends <= at]:
        del tokens[digest]
    token = random.hex()
    tokens[_digest(token)] = ends_at
    return token


def _digest(token: str) -> str:
    """The time of a look-up by digest reveals nothing about the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
