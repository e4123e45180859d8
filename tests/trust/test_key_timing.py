"""Tests that the time of a key check reveals nothing about the key.

The tests do not measure time, because a busy machine would falsify it. They show that an unknown id, a known id with a
wrong secret, and a right key execute the same lines, hash the same number of texts and compare the same number of
characters. The comparison is `hmac.compare_digest`, which compares every character in any case.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
from dataclasses import dataclass, field
from types import FrameType

import pytest

from herd.coordinator.auth import access_control
from herd.trust import keys, logins
from herd.trust.keys import ApiKey, Keyring, Scope, create_key
from herd.trust.logins import Logins

ID, DIGEST, TEXT = create_key(bytes(range(25)))
KEY = ApiKey(id=ID, name="app", digest=DIGEST, scopes=frozenset({Scope.CHAT}), created_at=0.0)
OTHERS = [
    ApiKey(id=created[0], name="other", digest=created[1], scopes=frozenset({Scope.CHAT}), created_at=0.0)
    for created in (create_key(bytes([n]) * 25) for n in range(100))
]
SECRET = TEXT.rpartition("_")[2]


def with_secret(secret: str, key_id: str = ID) -> str:
    return f"{keys.PREFIX}{key_id}_{secret}"


WRONG = {
    "another id": with_secret(SECRET, "zzzzzzzz"),
    "the first character": with_secret(("a" if SECRET[0] != "a" else "b") + SECRET[1:]),
    "the last character": with_secret(SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b")),
    "every character": with_secret("".join("a" if c != "a" else "b" for c in SECRET)),
}


@dataclass
class Work:
    """The work of one check."""

    lines: list[tuple[str, int]] = field(default_factory=list)
    hashed: list[int] = field(default_factory=list)
    compared: list[tuple[int, int]] = field(default_factory=list)


def work_of(text: str, ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> tuple[Work, ApiKey | None]:
    work = Work()
    compare, sha256 = hmac.compare_digest, hashlib.sha256

    def compared(one: str, other: str) -> bool:
        work.compared.append((len(one), len(other)))
        return compare(one, other)

    def hashed(data: bytes) -> object:
        work.hashed.append(len(data))
        return sha256(data)

    def traced(frame: FrameType, event: str, _: object) -> object:
        if frame.f_code.co_filename != keys.__file__:
            return None
        if event == "line":
            work.lines.append((frame.f_code.co_name, frame.f_lineno))
        return traced

    monkeypatch.setattr(hmac, "compare_digest", compared)
    monkeypatch.setattr(hashlib, "sha256", hashed)
    before = sys.gettrace()
    sys.settrace(traced)
    try:
        found = ring.find(text, 1.0)
    finally:
        sys.settrace(before)
        monkeypatch.undo()
    return work, found


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_key_takes_the_same_work_as_a_right_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([KEY, *OTHERS])
    right, found = work_of(TEXT, ring, monkeypatch)
    wrong, not_found = work_of(WRONG[kind], ring, monkeypatch)
    assert found is KEY and not_found is None
    assert right.compared == wrong.compared == [(64, 64)], "one comparison of two digests of full length"
    assert right.hashed == wrong.hashed
    different = set(wrong.lines) ^ set(right.lines)
    assert all(name == "is_valid" for name, _ in different), "only for a right key the expiry is checked"


def test_an_unknown_id_executes_the_same_lines_as_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([KEY, *OTHERS])
    works = [work_of(text, ring, monkeypatch)[0] for text in WRONG.values()]
    assert all(work == works[0] for work in works)
    assert works[0].lines, "no line was traced"


def test_the_number_of_keys_does_not_change_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        work_of(WRONG["another id"], Keyring(), monkeypatch)[0]
        == work_of(WRONG["another id"], Keyring([KEY, *OTHERS]), monkeypatch)[0]
    )


def test_every_header_form_uses_the_same_check() -> None:
    """One function checks all of them, so that no header form can bypass it."""
    basic = "Basic " + base64.b64encode(f"user:{TEXT}".encode()).decode()
    forms = (
        {b"authorization": f"Bearer {TEXT}"},
        {b"authorization": f"bearer  {TEXT} "},
        {b"authorization": basic},
        {b"x-api-key": f" {TEXT} "},
    )
    for seen in forms:
        assert access_control.presented_keys(seen) == [TEXT]
        assert access_control._key_among(access_control.presented_keys(seen), Keyring([KEY]), 1.0) == (KEY, None)
    wrong = [access_control._key_among([text], Keyring([KEY]), 1.0) for text in WRONG.values()]
    assert all(answer == wrong[0] and answer[0] is None for answer in wrong), (
        "the answer does not reveal whether the id or the secret is wrong"
    )


def test_sessions_and_links_are_looked_up_by_digest() -> None:
    """A dictionary compares texts from their beginning; an attacker cannot choose the beginning of a digest."""
    ours = Logins()
    token, session = (
        ours.create_link(b"l" * logins.LINK_BYTES, 0.0),
        ours.open_session(b"s" * logins.LINK_BYTES, 0.0, ""),
    )
    for known in (ours._links, ours._sessions, ours._key_ids):
        assert known and all(len(name) == 64 and name not in (token, session) for name in known)
    assert set(ours._links) == {hashlib.sha256(token.encode()).hexdigest()}
