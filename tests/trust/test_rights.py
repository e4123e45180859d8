"""Every right, from everywhere, with and without a key: who may, and what the others are told."""

from __future__ import annotations

import itertools

import pytest

from herd.trust.addresses import Nearness
from herd.trust.keys import ApiKey, Scope
from herd.trust.rights import KEYLESS, Caller, Right, judge

CLOSED = [right for right in Right if right not in (Right.OPEN, Right.PAGE) and right not in KEYLESS]


def a_caller(nearness: Nearness = Nearness.FAR, *scopes: Scope, is_logged_in: bool = False) -> Caller:
    key = ApiKey("id", "app", "", frozenset(scopes), 0.0) if scopes else None
    return Caller(nearness, key, is_logged_in)


@pytest.mark.parametrize("right", KEYLESS)
def test_near_callers_chat_and_list_without_a_key_until_there_is_one(right: Right) -> None:
    for nearness in (Nearness.HERE, Nearness.NEAR):
        assert judge(right, a_caller(nearness), has_keys=False, requires_key=False) is None
        assert _status(right, a_caller(nearness), has_keys=True) == 401
        assert _status(right, a_caller(nearness), requires_key=True) == 401
    assert _status(right, a_caller(Nearness.FAR)) == 401


@pytest.mark.parametrize("right", CLOSED)
def test_without_a_key_only_this_machine_looks_inside_or_changes_anything(right: Right) -> None:
    for has_keys, requires in itertools.product((False, True), repeat=2):
        assert judge(right, a_caller(Nearness.HERE), has_keys, requires) is None
        assert _status(right, a_caller(Nearness.NEAR), has_keys, requires) == 401
        assert _status(right, a_caller(Nearness.FAR), has_keys, requires) == 401


def test_everybody_may_do_what_is_open() -> None:
    assert judge(Right.OPEN, a_caller(), has_keys=True, requires_key=True) is None


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("right", [r for r in Right if r is not Right.OPEN])
def test_a_key_does_what_its_scopes_say_from_everywhere(scope: Scope, right: Right) -> None:
    may = scope is Scope.ADMIN or right in (Right.LIST, Right.PAGE) or scope.value == right.value
    may = may or (scope, right) == (Scope.CHAT, Right.EMBED)
    for nearness in Nearness:
        assert (_status(right, a_caller(nearness, scope), has_keys=True) == 200) is may
        assert _status(right, a_caller(nearness, scope), has_keys=True) in (200, 403)


def test_pages_are_open_until_the_owner_asks_for_keys() -> None:
    for nearness in Nearness:
        assert _status(Right.PAGE, a_caller(nearness), has_keys=True) == 200
        assert _status(Right.PAGE, a_caller(nearness), requires_key=True) == (200 if nearness is Nearness.HERE else 401)
    assert _status(Right.PAGE, a_caller(Nearness.FAR, Scope.CHAT), requires_key=True) == 200


def test_who_has_logged_in_may_do_everything() -> None:
    assert all(_status(right, a_caller(is_logged_in=True), has_keys=True) == 200 for right in Right)


def test_refusals_name_the_next_command() -> None:
    for right in [*KEYLESS, *CLOSED]:
        refusal = judge(right, a_caller(), has_keys=True, requires_key=False)
        assert refusal is not None and "herd keys add" in refusal.message


def _status(right: Right, caller: Caller, has_keys: bool = False, requires_key: bool = False) -> int:
    refusal = judge(right, caller, has_keys, requires_key)
    return 200 if refusal is None else refusal.status
