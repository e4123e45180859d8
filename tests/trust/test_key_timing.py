"""How long a key check takes tells nothing. Shown by construction, since a stopwatch on a busy machine shows what one likes.

An unknown id, a known id with a wrong secret, and a right key run the same lines, hash the same number of texts and compare the same
number of characters; the comparison itself is `hmac.compare_digest`, which looks at every character whatever it finds.
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
from herd.trust.keys import ApiKey, Keyring, Scope, minted
from herd.trust.logins import Logins

ID, DIGEST, TEXT = minted(bytes(range(25)))
KEY = ApiKey(ID, "app", DIGEST, frozenset({Scope.CHAT}), 0.0)
OTHERS = [
    ApiKey(made[0], "other", made[1], frozenset({Scope.CHAT}), 0.0)
    for made in (minted(bytes([n]) * 25) for n in range(100))
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
    """What was done in one check."""

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
def test_a_wrong_key_does_the_work_of_a_right_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([KEY, *OTHERS])
    right, found = work_of(TEXT, ring, monkeypatch)
    wrong, nobody = work_of(WRONG[kind], ring, monkeypatch)
    assert found is KEY and nobody is None
    assert right.compared == wrong.compared == [(64, 64)], "one comparison of two digests of full length"
    assert right.hashed == wrong.hashed
    unlike = set(wrong.lines) ^ set(right.lines)
    assert all(name == "is_valid" for name, _ in unlike), "only for a key that was right its expiry is looked at"


def test_an_unknown_id_runs_the_very_lines_of_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([KEY, *OTHERS])
    works = [work_of(text, ring, monkeypatch)[0] for text in WRONG.values()]
    assert all(work == works[0] for work in works)
    assert works[0].lines, "nothing was traced, so nothing is shown"


def test_how_many_keys_there_are_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        work_of(WRONG["another id"], Keyring(), monkeypatch)[0]
        == work_of(WRONG["another id"], Keyring([KEY, *OTHERS]), monkeypatch)[0]
    )


def test_every_header_form_comes_to_the_same_check() -> None:
    """One function for all of them, so that no second way in can be forgotten."""
    basic = "Basic " + base64.b64encode(f"user:{TEXT}".encode()).decode()
    forms = (
        {b"authorization": f"Bearer {TEXT}"},
        {b"authorization": f"bearer  {TEXT} "},
        {b"authorization": basic},
        {b"x-api-key": f" {TEXT} "},
    )
    for seen in forms:
        assert access_control.presented(seen) == [TEXT]
        assert access_control._key_among(access_control.presented(seen), Keyring([KEY]), 1.0) == (KEY, None)
    wrong = [access_control._key_among([text], Keyring([KEY]), 1.0) for text in WRONG.values()]
    assert all(answer == wrong[0] and answer[0] is None for answer in wrong), (
        "nobody is told whether it was the id or the secret"
    )


def test_sessions_and_links_are_looked_up_by_digest() -> None:
    """A dictionary compares what it finds by its beginning; of a digest, a guesser knows no beginning."""
    ours = Logins()
    token, session = ours.link(b"l" * logins.LINK_BYTES, 0.0), ours.open(b"s" * logins.LINK_BYTES, 0.0, "")
    for known in (ours._links, ours._sessions, ours._keys):
        assert known and all(len(name) == 64 and name not in (token, session) for name in known)
    assert set(ours._links) == {hashlib.sha256(token.encode()).hexdigest()}
