"""Tests which nodes get requests after absences, refused connections, pauses and crashes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.core.lifecycle.free_slots import SLOW_START_S
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.poison_requests import BLOCKED_S
from herd.core.lifecycle.retries import RetrySettings
from herd.core.state.commands import Command, Dispatch, Hold, Record, Refuse
from herd.core.state.events import AttemptFailed, NodeLeft, Ticked
from herd.core.state.fleet import Liveness, NodeId
from herd.core.state.liveness import HEARTBEATS_TO_TRUST, TRIAL_S, UNAUTHORIZED_S
from herd.core.state.request import Failure, FailureKind, Outcome, RequestId


def two_nodes(slots: int = 4, **settings: object) -> World:
    world = a_world(**settings)  # type: ignore[arg-type]
    for name in ("alpha", "beta"):
        world.receives(a_report(name, [a_model_info(loaded=True, slots=slots)]))
    return world


def beat(world: World, *names: str, slots: int = 4) -> None:
    for name in names:
        world.receives(a_report(name, [a_model_info(loaded=True, slots=slots)]))


def pass_time(world: World, seconds: float, *beating: str, slots: int = 4) -> None:
    """In steps of a sweep, so that no gap looks like a paused process; these nodes continue to report."""
    end = world.now + seconds
    while world.now < end:
        world.now = min(end, world.now + 0.5)
        beat(world, *beating, slots=slots)
        world.feed(Ticked(world.now))


def place_of(world: World, request_id: str) -> str:
    live_request = world.dispatcher.live_requests[RequestId(request_id)]
    return (
        live_request.attempt.node_id
        if live_request.attempt is not None and live_request.is_running
        else live_request.state.value
    )


def silent(world: World, name: str, *others: str) -> None:
    pass_time(world, 31.0, *others)
    assert world.dispatcher.fleet.nodes[NodeId(name)].liveness is Liveness.OFFLINE


# --- coming back ---


def test_node_that_returns_once_gets_requests_at_once() -> None:
    world = two_nodes(slots=1)
    silent(world, "alpha", "beta")
    world.arrives("r1")
    beat(world, "alpha", slots=1)
    world.arrives("r2")
    assert (place_of(world, "r1"), place_of(world, "r2")) == ("beta", "alpha")


def test_flapping_node_must_stay_online_before_it_gets_requests() -> None:
    world = two_nodes(slots=1)
    for _ in range(2):
        silent(world, "alpha", "beta")
        beat(world, "alpha")
    world.arrives("r1")
    world.arrives("r2")
    assert place_of(world, "r2") != "alpha"
    [rejected] = world.dispatcher.live_requests[RequestId("r1")].decision.rejected  # type: ignore[union-attr]
    assert rejected.filter == "returning" and "2 times" in rejected.reason
    pass_time(world, TRIAL_S + 0.5, "alpha", "beta")
    world.arrives("r3")
    assert place_of(world, "r3") == "alpha"
    assert world.dispatcher.fleet.nodes[NodeId("alpha")].heartbeats_since_return >= HEARTBEATS_TO_TRUST


def test_waiting_time_of_a_flapping_node_doubles_with_each_return() -> None:
    world = two_nodes()
    trials = []
    for _ in range(4):
        silent(world, "alpha", "beta")
        beat(world, "alpha")
        trials.append(world.dispatcher.fleet.nodes[NodeId("alpha")].untrusted_until - world.now)
    assert trials[1:] == [TRIAL_S, 2 * TRIAL_S, 4 * TRIAL_S]


def test_flapping_node_gets_requests_if_it_is_the_only_one() -> None:
    world = two_nodes()
    for _ in range(2):
        silent(world, "alpha", "beta")
        beat(world, "alpha")
    world.feed(NodeLeft(world.now, NodeId("beta")))
    world.arrives("r1")
    assert place_of(world, "r1") == "alpha"
    assert world.dispatcher.live_requests[RequestId("r1")].decision.is_panic  # type: ignore[union-attr]


def test_returning_node_gets_its_slots_gradually_unless_it_is_the_only_one() -> None:
    world = two_nodes(slots=8)
    silent(world, "alpha", "beta")
    beat(world, "alpha", slots=8)
    alpha = world.dispatcher.fleet.nodes[NodeId("alpha")]
    model = next(iter(alpha.report.models))
    shares = [
        world.dispatcher.placement.free_slots.slots(alpha, model, world.now + part * SLOW_START_S)
        for part in (0.0, 0.25, 0.5, 1.0)
    ]
    assert shares == [1, 2, 4, 8]
    world.feed(NodeLeft(world.now, NodeId("beta")))
    assert world.dispatcher.placement.free_slots.slots(alpha, model, world.now) == 8


# --- quarantine, pauses, keys ---


def fail_at(world: World, name: str, times: int, kind: FailureKind = FailureKind.SERVER_ERROR, **more: object) -> None:
    """Requests that this node fails; they end elsewhere."""
    for number in range(times):
        request_id = f"f{name}{world.now}{number}"
        world.arrives(request_id)
        for attempt in range(1, 4):
            place = place_of(world, request_id)
            if place == name:
                failure = Failure(kind=kind, **more)  # type: ignore[arg-type]
                world.feed(AttemptFailed(world.now, RequestId(request_id), attempt, failure))
            elif place in ("alpha", "beta"):
                world.finishes(request_id, attempt)
                break


def test_quarantined_model_is_tested_by_one_request_and_the_quarantine_doubles() -> None:
    world = two_nodes(slots=8)
    fail_at(world, "alpha", 12)
    until = world.dispatcher.liveness.quarantined_until(NodeId("alpha"), next(iter(world.dispatcher.fleet.model_names)))
    assert until > world.now
    pass_time(world, until - world.now + 0.1, "alpha", "beta", slots=8)
    for number in range(6):
        world.arrives(f"p{number}")
    assert [place_of(world, f"p{number}") for number in range(6)].count("alpha") == 1


def test_retry_after_of_a_busy_engine_is_respected() -> None:
    world = two_nodes(slots=8)
    fail_at(world, "alpha", 1, FailureKind.BUSY, retry_after_s=20.0)
    pass_time(world, 2.0, "alpha", "beta", slots=8)
    places = set()
    for number in range(4):
        world.arrives(f"r{number}")
        places.add(place_of(world, f"r{number}"))
    assert places == {"beta"}
    pass_time(world, 20.0, "alpha", "beta", slots=8)
    world.arrives("later")
    assert place_of(world, "later") == "alpha"


def test_unauthorized_node_is_rejected_for_a_minute_with_the_reason() -> None:
    world = two_nodes()
    fail_at(world, "alpha", 1, FailureKind.UNAUTHORIZED, status=401)
    fail_at(world, "beta", 1, FailureKind.UNAUTHORIZED, status=401)
    commands = world.arrives("r1")
    assert isinstance(commands[0], Hold) and "401" in commands[0].reason
    pass_time(world, UNAUTHORIZED_S / 4, "alpha", "beta")
    assert place_of(world, "r1") == "held"


def reports_usable(world: World, node_id: str, problem: str = "", slots: int = 1, **more: Any) -> None:
    """A heartbeat five seconds later, after the agent has asked the engine with its key."""
    world.now += 5.0
    engine = an_engine(slots)
    models = [a_model_info(loaded=True, engine=engine)]
    world.receives(a_report(node_id, models, engines=(replace(engine, problem=problem),), **more))


def refused_once() -> World:
    world = a_world()
    reports_usable(world, "alpha")
    world.arrives("first")
    world.feed(AttemptFailed(world.now, RequestId("first"), 1, Failure(kind=FailureKind.UNAUTHORIZED, status=401)))
    world.arrives("r1")
    assert place_of(world, "r1") == "held"
    return world


def test_an_engine_whose_agent_confirms_the_key_is_used_again_before_the_minute_is_over() -> None:
    world = refused_once()
    reports_usable(world, "alpha")
    assert place_of(world, "r1") == "held", "this heartbeat may be older than the refusal"
    reports_usable(world, "alpha")
    assert place_of(world, "r1") == "alpha"


def test_a_heartbeat_that_repeats_an_older_list_or_names_a_problem_confirms_no_key() -> None:
    world = refused_once()
    for _ in range(2):
        reports_usable(world, "alpha", connection_failures=1)
        reports_usable(world, "alpha", problem="refuses the API key")
    assert place_of(world, "r1") == "held"


def test_an_engine_that_refuses_again_although_its_list_was_confirmed_waits_for_the_whole_minute() -> None:
    """Some servers list their models without a key."""
    world = refused_once()
    reports_usable(world, "alpha")
    reports_usable(world, "alpha")
    assert place_of(world, "r1") == "alpha"
    world.feed(AttemptFailed(world.now, RequestId("r1"), 1, Failure(kind=FailureKind.UNAUTHORIZED, status=401)))
    refused_at = world.now
    while world.now - refused_at < UNAUTHORIZED_S - 6.0:
        reports_usable(world, "alpha")
        world.arrives(f"at {world.now}")
        assert place_of(world, f"at {world.now}") == "held"
    reports_usable(world, "alpha")
    reports_usable(world, "alpha")
    world.arrives("after a minute")
    assert place_of(world, "after a minute") != "held"


def test_refusals_of_requests_that_ran_at_the_same_time_count_as_one() -> None:
    world = a_world()
    reports_usable(world, "alpha", slots=2)
    for request_id in ("one", "two"):
        world.arrives(request_id)
    for request_id in ("one", "two"):
        refused = Failure(kind=FailureKind.UNAUTHORIZED, status=401)
        world.feed(AttemptFailed(world.now, RequestId(request_id), 1, refused))
        reports_usable(world, "alpha", slots=2)
    world.arrives("r1")
    assert place_of(world, "r1") == "held"
    reports_usable(world, "alpha", slots=2)
    assert place_of(world, "r1") == "alpha"


def test_suspected_nodes_get_one_request_at_a_time_if_no_other_node_is_left() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True, slots=8)]))
    model = world.dispatcher.fleet.model_names[0]
    for number in range(3):
        world.arrives(f"f{number}")
        world.feed(AttemptFailed(world.now, RequestId(f"f{number}"), 1, Failure(kind=FailureKind.SERVER_ERROR)))
    assert world.dispatcher.liveness.quarantined_until(NodeId("alpha"), model) > world.now
    world.arrives("r1")
    world.arrives("r2")
    assert (place_of(world, "r1"), place_of(world, "r2")) == ("alpha", "held")
    world.finishes("r1")
    pass_time(world, 0.5, "alpha", slots=8)
    assert place_of(world, "r2") == "alpha"


def test_node_that_refuses_connections_is_tried_again_after_a_heartbeat() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True)]))
    for attempt in (1, 2, 3):
        world.arrives("r1") if attempt == 1 else world.feed(Ticked(world.now))
        if place_of(world, "r1") == "alpha":
            world.fails("r1", attempt, FailureKind.CONNECT)
    assert place_of(world, "r1") == "held"
    world.now += 0.4
    beat(world, "alpha")
    assert place_of(world, "r1") == "alpha"


# --- budget ---


def test_a_retry_gets_a_free_slot_whatever_the_budget_and_nothing_waits() -> None:
    """Four nodes with sixteen slots, one of which fails always; long answers."""
    world = a_world(retries=RetrySettings(budget_share=0.0, budget_min=0))
    names = ("alpha", "beta", "gamma", "delta")
    beat(world, *names, slots=16)
    for number in range(24):
        world.arrives(f"r{number}")
    for _ in range(90):
        pass_time(world, 0.5, *names, slots=16)
        for live_request in list(world.dispatcher.live_requests.values()):
            attempt = live_request.attempt
            if attempt is not None and attempt.node_id == "alpha":
                world.fails(live_request.request.id, attempt.number, FailureKind.SERVER_ERROR)
        assert not world.dispatcher.waiting
    for live_request in list(world.dispatcher.live_requests.values()):
        world.finishes(live_request.request.id, live_request.attempts)
    rows = [c for c in world.commands if isinstance(c, Record) and c.outcome is not Outcome.RETRIED]
    assert [(row.outcome, row.held_s) for row in rows] == [(Outcome.COMPLETED, 0.0)] * 24
    assert any(row.retries for row in rows) and not [c for c in world.commands if isinstance(c, Hold | Refuse)]


def test_retries_beyond_the_budget_do_not_queue_while_all_slots_are_busy_and_none_is_lost() -> None:
    world = a_world(retries=RetrySettings(budget_share=0.0, budget_min=0, retries_max=5))
    beat(world, "alpha", "beta", slots=1)
    for request_id in ("r1", "r2"):
        world.arrives(request_id)
    failed = "r1" if place_of(world, "r1") == "alpha" else "r2"
    world.arrives("r3")
    world.fails(failed, 1, FailureKind.SERVER_ERROR)
    assert place_of(world, failed) == "held" and len(world.dispatcher.live_requests) == 3
    pass_time(world, HoldingSettings().wait_max_s + 1.0, "alpha", "beta", slots=1)
    assert place_of(world, failed) == "pending", "after the longest wait for a node it queues like any other request"
    for request_id in {"r1", "r2", "r3"} - {failed}:
        world.finishes(request_id)
    world.now += 2.0
    world.finishes(failed, 2)
    row = [c for c in world.commands if isinstance(c, Record)][-1]
    assert row.outcome is Outcome.COMPLETED and row.held_s >= HoldingSettings().wait_max_s


def test_a_lost_node_is_not_a_strike() -> None:
    world = a_world(retries=RetrySettings(retries_max=1))
    names = [f"n{number}" for number in range(6)]
    beat(world, *names)
    world.arrives("r1")
    for attempt, kind in enumerate((FailureKind.RESET, FailureKind.CLOSED, FailureKind.NODE_LOST, FailureKind.BUSY), 1):
        forwarded = 100 * attempt
        world.fails("r1", attempt, kind, forwarded=forwarded, continuation_kinds=frozenset({"ollama"}))
    assert place_of(world, "r1") in names
    world.finishes("r1", 5)
    assert world.rows("r1") == [Outcome.RETRIED] * 4 + [Outcome.COMPLETED]


def test_a_request_that_ran_longer_than_the_hold_may_still_wait_for_a_node() -> None:
    world = two_nodes()
    world.arrives("r1")
    place = place_of(world, "r1")
    other = "beta" if place == "alpha" else "alpha"
    pass_time(world, 2 * HoldingSettings().wait_max_s, place)
    world.fails("r1", 1, FailureKind.RESET)
    assert place_of(world, "r1") == "held"
    beat(world, other)
    assert place_of(world, "r1") == other


def test_a_queued_request_is_refused_after_the_limit_and_a_running_one_never() -> None:
    world = a_world(holding=HoldingSettings(queue_max_s=60.0))
    beat(world, "alpha", slots=1)
    world.arrives("r1", stream=True)
    world.first_byte("r1")
    world.arrives("r2")
    pass_time(world, 59.0, "alpha", slots=1)
    assert place_of(world, "r2") == "pending"
    pass_time(world, 2.0, "alpha", slots=1)
    [refused] = [c for c in world.commands if isinstance(c, Refuse)]
    assert (refused.request_id, refused.refusal.status, refused.refusal.code) == ("r2", 503, "queue_timeout")
    assert refused.refusal.retry_after_s and "FLEET_QUEUE_MAX_SECONDS" in refused.refusal.message
    assert place_of(world, "r1") == "alpha" and world.rows("r2") == [Outcome.REJECTED]


def test_requests_of_a_lost_node_move_at_once_without_the_budget() -> None:
    world = a_world(retries=RetrySettings(budget_share=0.0, budget_min=0))
    for name in ("alpha", "beta"):
        world.receives(a_report(name, [a_model_info(loaded=True, slots=8)]))
    for number in range(10):
        world.arrives(f"r{number}")
    lost = [f"r{number}" for number in range(10) if place_of(world, f"r{number}") == "alpha"]
    assert len(lost) > 3
    for request_id in lost:
        world.fails(request_id, 1, FailureKind.RESET)
    assert {place_of(world, request_id) for request_id in lost} <= {"beta", "pending"}


# --- deadlines ---


def test_a_running_request_ends_at_its_deadline_with_504() -> None:
    world = two_nodes()
    world.arrives("r1", deadline_at=world.now + 2.0)
    pass_time(world, 1.5, "alpha", "beta")
    assert RequestId("r1") in world.dispatcher.live_requests
    pass_time(world, 1.0, "alpha", "beta")
    assert RequestId("r1") not in world.dispatcher.live_requests
    refusals = [c.refusal for c in world.commands if getattr(c, "refusal", None) is not None]
    assert [refusal.status for refusal in refusals] == [504]


def test_no_other_node_is_tried_that_could_not_answer_before_the_deadline() -> None:
    world = a_world(policy="completion_time")
    for name in ("alpha", "beta"):
        world.receives(a_report(name, [a_model_info(size_gb=20.0)], memory_gb=64.0))
    world.arrives("r1", deadline_at=world.now + 2.0)
    world.now += 1.0
    commands = world.fails("r1", 1, FailureKind.RESET)
    assert not [c for c in commands if isinstance(c, Dispatch)] and [c for c in commands if isinstance(c, Refuse)]


# --- poison ---


def crashes(world: World, request_id: str, attempt: int, forwarded: int = 0) -> list[Command]:
    kinds = frozenset({"ollama"})
    failure = Failure(kind=FailureKind.RESET, fingerprint=77, bytes_forwarded=forwarded, continuation_kinds=kinds)
    return world.feed(AttemptFailed(world.now, RequestId(request_id), attempt, failure))


@pytest.mark.parametrize("forwarded", [0, 700])
def test_two_engines_that_die_under_a_request_are_no_proof_and_the_third_answers(forwarded: int) -> None:
    world = two_nodes()
    beat(world, "gamma")
    world.arrives("r1")
    crashes(world, "r1", 1, forwarded)
    world.now += 0.8
    crashes(world, "r1", 2, forwarded)
    world.finishes("r1", 3)
    assert world.rows("r1")[-1] is Outcome.COMPLETED and not len(world.dispatcher.poisons)


@pytest.mark.parametrize("forwarded", [0, 700])
def test_request_at_which_three_engines_died_alone_is_refused_for_ten_minutes_and_says_so(forwarded: int) -> None:
    world = two_nodes()
    beat(world, "gamma", "delta")
    world.arrives("r1")
    for attempt in (1, 2, 3):
        commands = crashes(world, "r1", attempt, forwarded)
    [ended] = [c.refusal for c in commands if isinstance(c, Refuse)]
    assert (ended.code, ended.status, ended.retry_after_s) == ("poison_suspected", 502, BLOCKED_S)
    assert "10 min" in ended.message
    assert not any(world.dispatcher.liveness._records[pair].failed_at for pair in world.dispatcher.liveness._records)
    world.now += 60.0
    beat(world, "alpha", "beta", "gamma", "delta")
    [refused] = [c for c in world.arrives("r2", fingerprint=77) if isinstance(c, Refuse)]
    assert refused.refusal.code == "poison_suspected" and refused.refusal.retry_after_s == BLOCKED_S - 60.0
    assert isinstance(world.arrives("r3", fingerprint=78)[0], Dispatch)
    pass_time(world, BLOCKED_S, "alpha", "beta", "gamma", "delta")
    assert isinstance(world.arrives("r4", fingerprint=77)[0], Dispatch)


def test_a_request_that_got_further_each_time_is_not_poisonous() -> None:
    world = a_world()
    names = [f"n{number}" for number in range(8)]
    beat(world, *names)
    world.arrives("r1")
    for attempt in range(1, 8):
        crashes(world, "r1", attempt, forwarded=100 * attempt)
    world.finishes("r1", 8)
    assert world.rows("r1")[-1] is Outcome.COMPLETED


def test_evidence_of_several_requests_with_the_same_body_adds_up() -> None:
    world = two_nodes()
    world.arrives("r1")
    for attempt in (1, 2):
        crashes(world, "r1", attempt)
    world.now += 5.0
    world.arrives("r2", fingerprint=77)
    crashes(world, "r2", 1)
    crashes(world, "r2", 2)
    [refused] = [c for c in world.arrives("r3", fingerprint=77) if isinstance(c, Refuse)]
    assert refused.refusal.code == "poison_suspected"


def test_a_request_whose_own_options_kill_the_model_is_refused_after_two_crashes_and_no_node_is_quarantined() -> None:
    world = two_nodes()
    beat(world, "gamma", "delta")
    failure = Failure(
        kind=FailureKind.MODEL_CRASHED, fingerprint=78, has_own_options=True, engine_text="the process has terminated"
    )
    world.arrives("r1")
    world.feed(AttemptFailed(world.now, RequestId("r1"), 1, failure))
    commands = world.feed(AttemptFailed(world.now, RequestId("r1"), 2, failure))
    [ended] = [command.refusal for command in commands if isinstance(command, Refuse)]
    assert (ended.status, ended.code) == (502, "poison_suspected")
    assert ended.message.startswith("the process has terminated; ")
    for number in range(6):
        [again, *_] = world.arrives(f"again{number}", fingerprint=78)
        assert isinstance(again, Refuse) and again.refusal.code == "poison_suspected"
    model = world.dispatcher.fleet.model_names[0]
    assert not any(
        world.dispatcher.liveness.quarantined_until(node_id, model) for node_id in world.dispatcher.fleet.nodes
    )


# --- alarms ---


@pytest.mark.filterwarnings("default")
def test_violated_invariant_raises_an_alarm_within_a_minute() -> None:
    world = two_nodes()
    world.dispatcher.retrying.add(RequestId("nobody"))
    alarms = []
    for _ in range(130):
        world.now += 0.5
        alarms += world.dispatcher.handle(Ticked(world.now))
    assert len(alarms) >= 1 and "running retries" in alarms[0].message  # type: ignore[union-attr]
