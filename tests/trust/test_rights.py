"""Tests every right from every network zone, with and without a key."""

from __future__ import annotations

import itertools

import pytest

from herd.trust.addresses import NetworkZone
from herd.trust.keys import ApiKey, Scope
from herd.trust.rights import KEYLESS, Caller, Right, access_refusal

CLOSED = [right for right in Right if right not in (Right.OPEN, Right.PAGE) and right not in KEYLESS]


def a_caller(zone: NetworkZone = NetworkZone.PUBLIC, *scopes: Scope, is_logged_in: bool = False) -> Caller:
    key = ApiKey(id="id", name="app", digest="", scopes=frozenset(scopes), created_at=0.0) if scopes else None
    return Caller(zone, key, is_logged_in)


@pytest.mark.parametrize("right", sorted(KEYLESS, key=lambda right: right.name))
def test_local_callers_chat_and_list_without_a_key_until_a_key_exists(right: Right) -> None:
    for zone in (NetworkZone.THIS_MACHINE, NetworkZone.PRIVATE):
        assert access_refusal(right, a_caller(zone), has_keys=False, requires_key=False) is None
        assert _status(right, a_caller(zone), has_keys=True) == 401
        assert _status(right, a_caller(zone), requires_key=True) == 401
    assert _status(right, a_caller(NetworkZone.PUBLIC)) == 401


@pytest.mark.parametrize("right", CLOSED)
def test_without_a_key_only_this_machine_may_read_or_change_the_fleet(right: Right) -> None:
    for has_keys, requires in itertools.product((False, True), repeat=2):
        assert access_refusal(right, a_caller(NetworkZone.THIS_MACHINE), has_keys, requires) is None
        assert _status(right, a_caller(NetworkZone.PRIVATE), has_keys, requires) == 401
        assert _status(right, a_caller(NetworkZone.PUBLIC), has_keys, requires) == 401


def test_an_open_route_needs_no_key() -> None:
    assert access_refusal(Right.OPEN, a_caller(), has_keys=True, requires_key=True) is None


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("right", [r for r in Right if r is not Right.OPEN])
def test_a_key_has_the_rights_of_its_scopes_in_every_zone(scope: Scope, right: Right) -> None:
    may = scope is Scope.ADMIN or right in (Right.LIST, Right.PAGE) or scope.value == right.value
    may = may or (scope, right) == (Scope.CHAT, Right.EMBED)
    for zone in NetworkZone:
        assert (_status(right, a_caller(zone, scope), has_keys=True) == 200) is may
        assert _status(right, a_caller(zone, scope), has_keys=True) in (200, 403)


def test_pages_are_open_unless_the_setting_requires_a_key() -> None:
    for zone in NetworkZone:
        assert _status(Right.PAGE, a_caller(zone), has_keys=True) == 200
        assert _status(Right.PAGE, a_caller(zone), requires_key=True) == (
            200 if zone is NetworkZone.THIS_MACHINE else 401
        )
    assert _status(Right.PAGE, a_caller(NetworkZone.PUBLIC, Scope.CHAT), requires_key=True) == 200


def test_a_session_opened_by_link_may_do_everything() -> None:
    assert all(_status(right, a_caller(is_logged_in=True), has_keys=True) == 200 for right in Right)


def test_every_refusal_names_the_next_command() -> None:
    for right in [*KEYLESS, *CLOSED]:
        refusal = access_refusal(right, a_caller(), has_keys=True, requires_key=False)
        assert refusal is not None and "herd keys add" in refusal.message


def _status(right: Right, caller: Caller, has_keys: bool = False, requires_key: bool = False) -> int:
    refusal = access_refusal(right, caller, has_keys, requires_key)
    return 200 if refusal is None else refusal.status
