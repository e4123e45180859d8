"""Tests which user a request has: each source, with and without trust, and that nothing shows a person's name."""

from __future__ import annotations

import json
from random import Random

import pytest

from herd.trust.identity import DROPPED_HEADERS, USER_MAX_CHARS, Identities, IdentitySettings, claimed_user
from herd.trust.keys import ApiKey, Scope

SERVER, STRANGER = "192.168.1.10", "192.168.1.77"
EMAIL = "Ann.Lee@Example.org"
CLAUDE_CODE = "user_0f3c_account_7f1c-aa_session_3b9d-01"


def identities(
    shows_names: bool = False, trusted: tuple[str, ...] = (f"{SERVER}/32",), secret: bytes = b"s"
) -> Identities:
    return Identities(IdentitySettings(trusted=trusted, shows_names=shows_names), lambda: secret)


def a_key(key_id: str = "web", names_users: bool = False) -> ApiKey:
    return ApiKey(
        id=key_id, name="web", digest="", scopes=frozenset({Scope.CHAT}), created_at=0.0, names_users=names_users
    )


SOURCES = (
    ("x-openwebui-user-email", EMAIL, EMAIL),
    ("x-openwebui-user-id", "8d1b5c3e", "8d1b5c3e"),
    ("x-openwebui-user-name", "Ann%20L%C3%A9e", "Ann Lée"),
    ("x-librechat-user-email", EMAIL, EMAIL),
    ("x-librechat-user-id", "65a1", "65a1"),
    ("x-user-id", "65a1", "65a1"),
    ("x-user-email", EMAIL, EMAIL),
    ("remote-user", "ann", "ann"),
    ("remote-email", EMAIL, EMAIL),
)


@pytest.mark.parametrize("is_trusted_address", [True, False])
@pytest.mark.parametrize("key", [None, a_key(), a_key(names_users=True)], ids=["no key", "key", "trusted key"])
@pytest.mark.parametrize(("header", "value", "name"), SOURCES)
def test_header_names_the_user_if_the_address_or_the_key_is_trusted(
    header: str, value: str, name: str, key: ApiKey | None, is_trusted_address: bool
) -> None:
    known = identities(shows_names=True)
    sender = known.sender({header.encode(): value}, key, SERVER if is_trusted_address else STRANGER)
    is_trusted = is_trusted_address or (key is not None and key.names_users)
    assert sender.is_trusted == is_trusted
    assert sender.user == (name if is_trusted else "")
    assert sender.tenant == ("key web" if key is not None else sender.tenant)


def test_an_e_mail_address_precedes_an_id_and_an_id_a_name() -> None:
    values = {b"x-openwebui-user-id": "8d1b", b"x-openwebui-user-name": "Ann", b"x-openwebui-user-email": EMAIL}
    known = identities(shows_names=True)
    assert known.sender(values, None, SERVER).user == EMAIL
    del values[b"x-openwebui-user-email"]
    assert known.sender(values, None, SERVER).user == "8d1b"


def test_one_person_is_one_user_in_two_apps() -> None:
    known = identities()
    users = {
        known.sender({header: EMAIL}, None, SERVER).user for header in (b"x-openwebui-user-email", b"x-user-email")
    }
    users.add(known.label(EMAIL.lower()))
    assert len(users) == 1


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ({"user": "ann"}, "ann"),
        ({"user": 7}, "7"),
        ({"user": True}, ""),
        ({"user": None, "safety_identifier": "s-1"}, "s-1"),
        ({"user": "ann", "metadata": {"user_id": "b"}, "safety_identifier": "c"}, "ann"),
        ({"metadata": {"user_id": "b"}, "safety_identifier": "c"}, "b"),
        ({"metadata": {"user_id": CLAUDE_CODE}}, "7f1c-aa"),
        ({"metadata": {"user_id": "user_0f3c_account__session_3b9d"}}, "0f3c"),
        ({"metadata": {"user_id": '{"device_id":"d1","account_uuid":"a1","session_id":"s1"}'}}, "a1"),
        ({"metadata": {"user_id": '{"device_id":"d1","account_uuid":"","session_id":"s1"}'}}, "d1"),
        ({"metadata": {"user_id": "{broken"}}, "{broken"),
        ({"metadata": ["a"], "user": ["b"]}, ""),
        ({"model": "m"}, ""),
    ],
)
def test_body_names_the_user(body: object, user: str) -> None:
    assert claimed_user(json.dumps(body).encode()) == user


def test_all_sessions_of_claude_code_are_one_user() -> None:
    sessions = ({"metadata": {"user_id": CLAUDE_CODE.replace("3b9d", session)}} for session in ("1", "2", "3"))
    assert len({identities().user_in_body(json.dumps(body).encode()) for body in sessions}) == 1


def test_hash_hides_the_name_and_differs_between_fleets() -> None:
    ours, theirs = identities(secret=b"ours").label(EMAIL), identities(secret=b"theirs").label(EMAIL)
    assert ours.startswith("u-") and ours != theirs
    assert "ann" not in ours.lower() and "example" not in ours


def test_any_claim_gives_a_short_printable_label() -> None:
    rng = Random(5)
    for shows_names in (True, False):
        known = identities(shows_names)
        for _ in range(300):
            text = "".join(chr(rng.choice((rng.randrange(0x20), rng.randrange(0x3000), 0xD800))) for _ in range(90))
            label = known.sender({b"x-user-id": text}, None, SERVER).user
            assert len(label) <= USER_MAX_CHARS and not any(one in label for one in "\r\n\0\x7f\u2028")


def test_client_without_trust_gets_one_tenant_whatever_it_claims() -> None:
    known = identities()
    senders = [
        known.sender({b"x-openwebui-user-id": f"u{n}", b"user-agent": f"app{n}/1"}, None, STRANGER) for n in range(50)
    ]
    assert len({sender.tenant for sender in senders}) == 1
    assert {sender.user for sender in senders} == {""}


def test_a_network_of_ipv6_is_one_tenant() -> None:
    known = identities()
    assert len({known.sender({}, None, f"2001:db8::{n:x}").tenant for n in range(9)}) == 1


def test_a_wrong_address_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"FLEET_IDENTITY_TRUSTED.*nowhere"):
        IdentitySettings(trusted=("nowhere",))


def test_headers_with_names_are_not_forwarded() -> None:
    assert {header.encode() for header, _, _ in SOURCES} <= DROPPED_HEADERS
