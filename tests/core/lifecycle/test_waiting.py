"""Tests that waiting is fair between tenants, limited for each tenant and in total, and answered with Retry-After."""

from __future__ import annotations

import pytest

from builders import World, a_model_info, a_report, a_world
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.wait_estimate import DEFAULT_WAIT_S, MAX_S, WaitEstimate
from herd.core.state.commands import Dispatch, Hold, Refuse
from herd.core.state.events import ClientLeft, Ticked
from herd.core.state.request import Outcome, RequestId
from herd.errors import Refusal


def a_busy_world(policy: str = "signals", **holding: float) -> World:
    """One node with one slot, which is taken."""
    world = a_world(policy, holding=HoldingSettings(**holding))  # type: ignore[arg-type]
    world.receives(a_report("alpha", [a_model_info(loaded=True)]))
    world.arrives("busy", tenant="other")
    return world


def refusals(world: World) -> list[Refusal]:
    return [command.refusal for command in world.commands if isinstance(command, Refuse)]


def dispatched(world: World) -> list[str]:
    return [command.request_id for command in world.commands if isinstance(command, Dispatch)]


def test_next_request_of_a_queue_is_chosen_in_turns_between_tenants() -> None:
    world = a_busy_world()
    for number in range(4):
        world.arrives(f"flood{number}", tenant="flood")
    world.arrives("quiet", tenant="quiet")
    for request_id in ("busy", "flood0", "quiet", "flood1"):
        world.finishes(request_id)
    assert dispatched(world) == ["busy", "flood0", "quiet", "flood1", "flood2"]


def test_held_requests_get_a_node_in_turns() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(slots=3)], paused=True))
    for number in range(3):
        world.arrives(f"flood{number}", tenant="flood")
    world.arrives("quiet", tenant="quiet")
    world.receives(a_report("alpha", [a_model_info(slots=3)]))
    assert dispatched(world) == ["flood0", "quiet", "flood1"]


def test_held_request_that_is_tried_without_success_keeps_its_turn() -> None:
    world = a_world()
    paused = a_report("alpha", [a_model_info()], paused=True)
    world.receives(paused)
    world.arrives("first", tenant="a")
    world.arrives("second", tenant="b")
    for _ in range(3):
        world.receives(paused)
    world.receives(a_report("alpha", [a_model_info()]))
    assert dispatched(world) == ["first"]


def test_tenant_beyond_half_of_the_limit_gets_429_with_retry_after() -> None:
    world = a_busy_world(held_max=8)
    world.arrives("quiet", tenant="quiet")
    for number in range(5):
        world.arrives(f"flood{number}", tenant="flood")
    assert [(r.status, r.code) for r in refusals(world)] == [(429, "tenant_share")]
    assert refusals(world)[0].retry_after_s == DEFAULT_WAIT_S
    assert world.rows("flood4") == [Outcome.REJECTED]


def test_single_tenant_may_use_more_but_leaves_space_for_others() -> None:
    world = a_busy_world(held_max=8)
    for number in range(8):
        world.arrives(f"flood{number}", tenant="flood")
    assert len(world.dispatcher.waiting) == 6
    assert isinstance(world.arrives("quiet", tenant="quiet")[0], Hold)


def test_single_tenant_may_always_have_one_waiting_request() -> None:
    world = a_busy_world(held_max=1, tenant_share=0.01)
    assert isinstance(world.arrives("r1", tenant="a", size_bytes=1000)[0], Hold)


def test_share_of_a_tenant_counts_bytes_too() -> None:
    world = a_busy_world(held_max_bytes=1000)
    world.arrives("quiet", tenant="quiet", size_bytes=10)
    world.arrives("a1", tenant="a", size_bytes=600)
    world.arrives("a2", tenant="a", size_bytes=10)
    assert [r.status for r in refusals(world)] == [429]


def test_waiting_request_is_not_refused_when_another_tenant_arrives() -> None:
    world = a_world(holding=HoldingSettings(held_max=8))
    world.receives(a_report("alpha", [a_model_info()], paused=True))
    for number in range(6):
        world.arrives(f"flood{number}", tenant="flood")
    world.arrives("quiet", tenant="quiet")
    world.receives(a_report("alpha", [a_model_info()], paused=True))
    world.receives(a_report("alpha", [a_model_info()]))
    assert refusals(world) == []
    assert len(world.dispatcher.waiting) == 6


def test_global_limit_is_503() -> None:
    world = a_busy_world(held_max=4)
    for tenant in "abcde":
        world.arrives(tenant, tenant=tenant)
    assert [(r.status, r.code) for r in refusals(world)] == [(503, "queue_full")]


@pytest.mark.parametrize("waits", ["queued", "held"])
def test_client_that_leaves_while_waiting_is_never_dispatched_and_frees_its_share(waits: str) -> None:

    world = a_busy_world()
    if waits == "held":
        world.receives(a_report("alpha", [a_model_info(loaded=True)], paused=True))
    world.arrives("gone", tenant="a")
    world.arrives("stays", tenant="a")
    world.feed(ClientLeft(world.now, RequestId("gone")))
    assert len(world.dispatcher.waiting) == 1
    world.receives(a_report("alpha", [a_model_info(loaded=True)]))
    world.finishes("busy")
    assert dispatched(world) == ["busy", "stays"]
    assert world.rows("gone") == [Outcome.CLIENT_CANCELLED]


def test_retry_after_follows_the_rate_of_starts() -> None:
    pace = WaitEstimate()
    assert pace.wait_s(3, 0.0) == DEFAULT_WAIT_S
    for at in (0.0, 2.0, 4.0, 6.0):
        pace.record_start(at, is_contended=True)
    assert pace.wait_s(3, 6.0) == pytest.approx(6.0)
    assert pace.wait_s(3, 26.0) == pytest.approx(20.0), "nothing has started for long: it will not be sooner than that"
    assert pace.wait_s(1000, 6.0) == MAX_S


def test_time_without_waiting_requests_does_not_change_the_rate() -> None:
    pace = WaitEstimate()
    pace.record_start(0.0, is_contended=True)
    pace.record_start(1.0, is_contended=True)
    pace.record_start(500.0, is_contended=False)
    pace.record_start(900.0, is_contended=True)
    assert pace.wait_s(3, 900.0) == pytest.approx(3.0)


@pytest.mark.parametrize(("status", "is_timed"), [(429, True), (503, True), (504, True), (404, False), (502, False)])
def test_retryable_refusals_have_retry_after(status: int, is_timed: bool) -> None:
    timed = WaitEstimate().with_retry_after(Refusal(status, "x", "x"), 0, 0.0)
    assert (timed.retry_after_s is not None) is is_timed


@pytest.mark.parametrize(("waits", "reason"), [("queued", "a free slot on alpha"), ("held", "alpha: ")])
def test_deadline_while_waiting_is_refused_with_reasons_and_retry_after(waits: str, reason: str) -> None:
    world = a_busy_world()
    if waits == "held":
        world.receives(a_report("alpha", [a_model_info(loaded=True)], paused=True))
    world.arrives("late", deadline_at=world.now + 3.0)
    world.now += 4.0
    world.feed(Ticked(world.now))
    (refusal,) = refusals(world)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (504, "deadline_passed", DEFAULT_WAIT_S)
    assert reason in refusal.message


def test_a_flood_from_one_user_leaves_turns_and_space_for_the_others_of_its_key() -> None:
    world = a_busy_world(held_max=16)
    for number in range(20):
        world.arrives(f"flood{number}", tenant="key web", member="flood")
    assert [one.code for one in refusals(world)] == ["tenant_share"] * 8
    for number in range(2):
        world.arrives(f"ann{number}", tenant="key web", member="ann")
    assert len(refusals(world)) == 8
    for request_id in ("busy", "flood0", "ann0", "flood1"):
        world.finishes(request_id)
    assert dispatched(world) == ["busy", "flood0", "ann0", "flood1", "ann1"]


def test_a_key_that_invents_users_cannot_fill_the_queue() -> None:
    world = a_busy_world(held_max=16)
    for number in range(40):
        world.arrives(f"x{number}", tenant="key web", member=f"m{number}")
    assert {one.code for one in refusals(world)} == {"tenant_share"}
    assert isinstance(world.arrives("quiet", tenant="quiet")[0], Hold)


def test_a_tenant_is_charged_for_the_seconds_that_its_requests_really_took() -> None:
    world = a_busy_world("completion_time")
    for request_id in ("a1", "a2", "b1", "b2", "b3"):
        world.arrives(request_id, tenant=request_id[0])
    world.finishes("busy")
    world.now += 300.0
    for request_id in ("a1", "b1", "b2", "b3"):
        world.finishes(request_id)
    assert dispatched(world) == ["busy", "a1", "b1", "b2", "b3", "a2"]
