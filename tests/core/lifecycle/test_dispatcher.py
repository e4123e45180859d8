"""Tests the life of a request: events in, commands out."""

from __future__ import annotations

from random import Random

import pytest

from builders import World, a_model_info, a_report, a_world, an_engine
from herd.core.lifecycle.dispatcher import SWEEP_EVERY_S
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.retries import RetrySettings
from herd.core.state.commands import Abort, Command, Dispatch, Hold, Record, Refuse
from herd.core.state.events import ClientLeft, DrainStarted, NodeLeft, Ticked
from herd.core.state.fleet import Liveness, NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.request import FailureKind, Outcome, RequestId, RequestKind


def dispatches(commands: list[Command]) -> list[tuple[str, str, int]]:
    return [(c.request_id, c.node_id, c.attempt) for c in commands if isinstance(c, Dispatch)]


def refusals(commands: list[Command]) -> list[tuple[str, int]]:
    return [(c.request_id, c.refusal.status) for c in commands if isinstance(c, Refuse)]


def holds(commands: list[Command]) -> list[tuple[str, int]]:
    return [(c.request_id, c.position) for c in commands if isinstance(c, Hold)]


def tick(world: World, seconds: float) -> list[Command]:
    """Lets time pass as the driver would: one tick after the other."""
    out: list[Command] = []
    end = world.now + seconds
    while world.now < end:
        world.now = min(end, world.now + SWEEP_EVERY_S)
        out += world.feed(Ticked(world.now))
    return out


@pytest.fixture
def two_nodes() -> World:
    """alpha has the model in memory, spare has it on disk; one slot each."""
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True)]), a_report("spare", [a_model_info()]))
    return world


def test_goes_to_the_node_that_has_the_model_in_memory(two_nodes: World) -> None:
    assert dispatches(two_nodes.arrives()) == [("r1", "alpha", 1)]


def test_complete_response_has_one_row(two_nodes: World) -> None:
    two_nodes.arrives()
    two_nodes.first_byte()
    [row] = two_nodes.finishes()
    assert isinstance(row, Record)
    assert row.outcome is Outcome.COMPLETED
    assert row.counters.completion_tokens == 20
    assert two_nodes.dispatcher.live_requests == {}


def test_response_forwarded_at_once_needs_no_first_byte_event(two_nodes: World) -> None:
    two_nodes.arrives()
    two_nodes.now += 2.0
    [row] = [c for c in two_nodes.finishes() if isinstance(c, Record)]
    assert row.outcome is Outcome.COMPLETED
    assert row.attempt is not None
    assert row.first_byte_at == row.attempt.first_byte_at == two_nodes.now


def test_moves_to_another_node_before_the_first_byte(two_nodes: World) -> None:
    """A node that dies before any byte was forwarded costs the client nothing."""
    two_nodes.arrives()
    assert dispatches(two_nodes.fails(kind=FailureKind.RESET)) == [("r1", "spare", 2)]
    two_nodes.first_byte(attempt=2)
    two_nodes.finishes(attempt=2)
    assert two_nodes.rows() == [Outcome.RETRIED, Outcome.COMPLETED]


def test_failure_after_forwarded_bytes_ends_the_stream_with_an_error(two_nodes: World) -> None:
    two_nodes.arrives()
    two_nodes.first_byte()
    commands = two_nodes.fails(forwarded=100)
    assert [type(c) for c in commands] == [Abort, Record]
    assert isinstance(commands[0], Abort) and commands[0].refusal is not None
    assert two_nodes.rows() == [Outcome.FAILED_MIDSTREAM]


def test_gives_up_after_the_allowed_retries_with_the_last_failure() -> None:
    world = a_world(retries=RetrySettings(retries_max=1))
    world.receives(*(a_report(name, [a_model_info(loaded=True)]) for name in ("a", "b", "c")))
    world.arrives()
    assert dispatches(world.fails(attempt=1, kind=FailureKind.SERVER_ERROR)) == [("r1", "b", 2)]
    assert refusals(world.fails(attempt=2, kind=FailureKind.SERVER_ERROR)) == [("r1", 502)]
    assert world.rows() == [Outcome.RETRIED, Outcome.FAILED]


def test_interrupted_stream_is_continued_by_an_engine_that_supports_it() -> None:
    world = a_world()
    others = a_model_info(loaded=True, engine=an_engine(kind="llamacpp"))
    world.receives(a_report("a", [others]), a_report("b", [a_model_info(loaded=True)]), a_report("c", [others]))
    world.arrives()
    world.first_byte()
    commands = world.fails(forwarded=100, continuation_kinds=frozenset({"llamacpp"}))
    assert dispatches(commands) == [("r1", "c", 2)], "b's engine cannot continue an answer, so b is skipped"
    world.first_byte(attempt=2)
    world.finishes(attempt=2)
    assert world.rows() == [Outcome.RETRIED, Outcome.COMPLETED]


def test_interrupted_stream_that_no_engine_can_continue_ends_at_once() -> None:
    world = a_world()
    world.receives(a_report("a", [a_model_info(loaded=True)]), a_report("b", [a_model_info(loaded=True)]))
    world.arrives()
    world.first_byte()
    commands = world.fails(forwarded=100, continuation_kinds=frozenset({"llamacpp"}))
    assert [type(c) for c in commands] == [Abort, Record]
    assert world.rows() == [Outcome.FAILED_MIDSTREAM]


def test_a_refused_connection_costs_no_retry_and_is_tried_again_when_the_node_is_back() -> None:
    world = a_world(retries=RetrySettings(retries_max=0))
    world.receives(a_report("only", [a_model_info(loaded=True)]))
    world.arrives()
    assert holds(world.fails(kind=FailureKind.CONNECT)) == [("r1", 1)]
    assert dispatches(tick(world, 2.0)) == [("r1", "only", 2)]


def test_late_event_of_an_abandoned_attempt_is_ignored(two_nodes: World) -> None:
    two_nodes.arrives()
    two_nodes.fails(attempt=1)
    assert two_nodes.fails(attempt=1) == []
    assert two_nodes.first_byte(attempt=1) == []
    assert two_nodes.finishes(attempt=1) == []


def test_a_full_node_queues_and_its_next_request_starts_when_a_slot_is_free() -> None:
    world = a_world()
    world.receives(a_report("only", [a_model_info(loaded=True, slots=2)]))
    for request_id in ("r1", "r2"):
        assert dispatches(world.arrives(request_id)) == [(request_id, "only", 1)]
    assert holds(world.arrives("r3")) == [("r3", 1)]
    assert holds(world.arrives("r4")) == [("r4", 2)]
    world.first_byte("r2")
    assert dispatches(world.finishes("r2")) == [("r3", "only", 1)]
    world.first_byte("r1")
    assert dispatches(world.finishes("r1")) == [("r4", "only", 1)]


def test_a_request_about_a_model_occupies_no_slot(two_nodes: World) -> None:
    two_nodes.arrives("r1")
    [command] = two_nodes.arrives("info", kind=RequestKind.INFO)
    assert isinstance(command, Dispatch)


def test_a_client_that_leaves_while_queued_is_never_dispatched() -> None:
    world = a_world()
    world.receives(a_report("only", [a_model_info(loaded=True)]))
    world.arrives("r1")
    world.arrives("r2")
    [row] = world.feed(ClientLeft(world.now, RequestId("r2")))
    assert isinstance(row, Record) and row.outcome is Outcome.CLIENT_CANCELLED
    world.first_byte("r1")
    assert dispatches(world.finishes("r1")) == []


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_leaves_while_it_runs_stops_the_node_and_frees_the_slot(streams: bool) -> None:
    world = a_world()
    world.receives(a_report("only", [a_model_info(loaded=True)]))
    world.arrives("r1")
    world.arrives("r2")
    if streams:
        world.first_byte("r1")
    commands = world.feed(ClientLeft(world.now, RequestId("r1")))
    assert isinstance(commands[0], Abort) and commands[0].refusal is None
    assert dispatches(commands) == [("r2", "only", 1)]
    assert world.rows("r1") == [Outcome.CLIENT_CANCELLED]


def test_an_unknown_model_is_refused_at_once_with_the_nearest_names() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info("llama3.2:3b"), a_model_info("qwen3:8b")]))
    commands = world.arrives(model="lama3.2")
    assert refusals(commands) == [("r1", 404)]
    assert isinstance(commands[0], Refuse) and "llama3.2:3b" in commands[0].refusal.message
    assert world.rows() == [Outcome.REJECTED]


def test_unknown_model_is_held_just_after_a_start() -> None:
    """The nodes report every five seconds: a coordinator that restarted must not say 404 before they did."""
    world = a_world(started_at=100.0)
    assert holds(world.arrives()) == [("r1", 1)]
    world.now += 3.0
    assert dispatches(world.receives(a_report("alpha", [a_model_info()]))) == [("r1", "alpha", 1)]


def test_model_that_does_not_appear_within_the_grace_time_is_refused_with_404() -> None:
    world = a_world(started_at=100.0)
    world.arrives()
    assert refusals(tick(world, 8.0)) == [("r1", 404)]


def test_held_requests_go_to_a_node_in_order_of_arrival() -> None:
    world = a_world()
    world.receives(a_report("only", [a_model_info(loaded=True, slots=2)], paused=True))
    assert holds(world.arrives("r1")) == [("r1", 1)]
    assert holds(world.arrives("r2")) == [("r2", 2)]
    world.now += 5.0
    commands = world.receives(a_report("only", [a_model_info(loaded=True, slots=2)]))
    assert dispatches(commands) == [("r1", "only", 1), ("r2", "only", 1)]


def test_hold_timeout_is_503_with_retry_after() -> None:
    world = a_world(holding=HoldingSettings(wait_max_s=10.0))
    world.receives(a_report("only", [a_model_info()], paused=True))
    world.arrives()
    commands = tick(world, 11.0)
    assert refusals(commands) == [("r1", 503)]
    refuse = next(c for c in commands if isinstance(c, Refuse))
    assert refuse.refusal.retry_after_s is not None
    assert "paused by its owner" in refuse.refusal.message


def test_request_for_a_model_too_large_for_every_node_is_refused_with_the_reason() -> None:
    world = a_world(holding=HoldingSettings(wait_max_s=1.0))
    world.receives(a_report("small", [a_model_info(size_gb=40.0)], memory_gb=16.0))
    world.arrives()
    commands = tick(world, 2.0)
    refuse = next(c for c in commands if isinstance(c, Refuse))
    assert "needs 40.0 GB" in refuse.refusal.message


def test_number_of_waiting_requests_is_limited() -> None:
    world = a_world(holding=HoldingSettings(held_max=2))
    world.receives(a_report("only", [a_model_info()], paused=True))
    world.arrives("r1")
    world.arrives("r2")
    assert refusals(world.arrives("r3")) == [("r3", 503)]


def test_waiting_bytes_are_limited_too() -> None:
    world = a_world(holding=HoldingSettings(held_max_bytes=1000))
    world.receives(a_report("only", [a_model_info()]))
    world.arrives("r1", size_bytes=900)
    world.arrives("r2", size_bytes=900)
    assert refusals(world.arrives("r3", size_bytes=200)) == [("r3", 503)]


def test_fallback_answers_if_no_node_can_take_the_requested_model() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info("big", size_gb=60.0), a_model_info("small")]))
    [command] = world.arrives(model="big", fallbacks=["small"])
    assert isinstance(command, Dispatch)
    assert command.model == "small:latest" and command.fallback == "small:latest"


def test_the_longest_name_is_the_same_model_as_the_short_one() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info("m:latest")]))
    assert dispatches(world.arrives(model="m")) == [("r1", "alpha", 1)]
    assert holds(world.arrives("r2", model="m:latest")) == [("r2", 1)]


def test_queued_requests_of_a_node_that_leaves_go_to_other_nodes(two_nodes: World) -> None:
    for request_id in ("r1", "r2", "r3"):
        two_nodes.arrives(request_id)
    queued = two_nodes.dispatcher.waiting.queues.of_node(NodeId("alpha"))
    assert sum(len(q.pending) for q in queued.values()) > 0
    commands = two_nodes.feed(NodeLeft(two_nodes.now, NodeId("alpha")))
    assert all(node == "spare" for _, node, _ in dispatches(commands))
    assert len(two_nodes.dispatcher.waiting) == 2
    assert NodeId("alpha") not in two_nodes.dispatcher.fleet.nodes


def test_goodbye_of_an_earlier_boot_is_ignored(two_nodes: World) -> None:
    two_nodes.feed(NodeLeft(two_nodes.now, NodeId("alpha"), boot_id="an earlier one"))
    assert NodeId("alpha") in two_nodes.dispatcher.fleet.nodes


def test_node_without_heartbeats_is_degraded_then_offline_and_its_unanswered_requests_move() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True)]), a_report("spare", [a_model_info()]))
    world.arrives()
    for _ in range(7):
        tick(world, 5.0)
        world.receives(a_report("spare", [a_model_info()]))
    alpha = world.dispatcher.fleet.nodes[NodeId("alpha")]
    assert alpha.liveness is Liveness.OFFLINE
    assert ("r1", "spare", 2) in dispatches(world.commands)


def test_paused_coordinator_does_not_mark_its_nodes_offline() -> None:
    world = a_world()
    world.receives(a_report("alpha", [a_model_info(loaded=True)]))
    tick(world, 1.0)
    world.now += 120.0
    world.feed(Ticked(world.now))
    assert world.dispatcher.fleet.nodes[NodeId("alpha")].liveness is Liveness.ONLINE


def test_first_byte_timeout_moves_the_request_to_another_node(two_nodes: World) -> None:
    two_nodes.arrives(prompt_tokens=0)
    for _ in range(20):
        tick(two_nodes, 4.0)
        two_nodes.receives(a_report("alpha", [a_model_info(loaded=True)]), a_report("spare", [a_model_info()]))
    assert ("r1", "spare", 2) in dispatches(two_nodes.commands)


def test_three_failures_of_a_model_keep_it_away_from_that_node() -> None:
    world = a_world(retries=RetrySettings(retries_max=0))
    world.receives(a_report("bad", [a_model_info(loaded=True)]), a_report("good", [a_model_info()]))
    for request_id in ("r1", "r2", "r3"):
        assert dispatches(world.arrives(request_id)) == [(request_id, "bad", 1)]
        world.fails(request_id, kind=FailureKind.SERVER_ERROR)
    assert dispatches(world.arrives("r4")) == [("r4", "good", 1)]


def test_request_for_a_missing_model_moves_to_another_node(two_nodes: World) -> None:
    two_nodes.arrives()
    assert dispatches(two_nodes.fails(kind=FailureKind.MODEL_MISSING)) == [("r1", "spare", 2)]
    assert [
        node.id
        for node in two_nodes.dispatcher.fleet.with_model(two_nodes.dispatcher.live_requests[RequestId("r1")].model)
    ] == ["spare"]


def test_4xx_of_a_node_is_passed_on_and_is_not_a_strike(two_nodes: World) -> None:
    two_nodes.arrives()
    two_nodes.first_byte()
    two_nodes.finishes(status=400)
    assert two_nodes.rows() == [Outcome.FAILED]
    assert dispatches(two_nodes.arrives("r2")) == [("r2", "alpha", 1)]


def test_draining_coordinator_refuses_new_requests_and_lets_running_ones_finish(two_nodes: World) -> None:
    two_nodes.arrives("r1")
    two_nodes.feed(DrainStarted(two_nodes.now))
    assert refusals(two_nodes.arrives("r2")) == [("r2", 503)]
    two_nodes.first_byte("r1")
    two_nodes.finishes("r1")
    assert two_nodes.rows("r1") == [Outcome.COMPLETED]


def test_cut_stream_is_continued_during_a_drain() -> None:
    """At once or, if it waited for a slot when the drain began, when one is free."""
    world = a_world()
    one_slot = a_model_info(loaded=True, engine=an_engine(slots=1, kind="llamacpp"))
    world.receives(a_report("a", [one_slot]), a_report("b", [one_slot]))
    world.arrives("r1")
    world.arrives("r2")
    world.first_byte("r1")
    assert dispatches(world.fails("r1", forwarded=100, continuation_kinds=frozenset({"llamacpp"}))) == []
    assert refusals(world.feed(DrainStarted(world.now))) == []
    assert [node for request, node, _ in dispatches(world.finishes("r2")) if request == "r1"]
    world.first_byte("r1", attempt=2)
    world.finishes("r1", attempt=2)
    assert world.rows("r1")[-1] == Outcome.COMPLETED


def test_cut_stream_waits_for_a_node_that_refused_its_continuation() -> None:
    """The engine there starts again, and no other node is left."""
    world = a_world()
    copy = a_model_info(loaded=True, engine=an_engine(kind="llamacpp"))
    world.receives(a_report("a", [copy]), a_report("b", [copy]))
    kinds = frozenset({"llamacpp"})
    world.arrives("r1")
    world.first_byte("r1")
    [(_, second, _)] = dispatches(world.fails("r1", forwarded=100, continuation_kinds=kinds))
    refused = world.fails("r1", attempt=2, kind=FailureKind.CONNECT, forwarded=100, continuation_kinds=kinds)
    assert refusals(refused) == [] and world.rows("r1")[-1] == Outcome.RETRIED
    world.now += 4.0
    assert [node for _, node, _ in dispatches(world.receives(a_report(second, [copy])))] == [second]
    world.first_byte("r1", attempt=3)
    world.finishes("r1", attempt=3)
    assert world.rows("r1")[-1] == Outcome.COMPLETED


def test_draining_node_gets_no_new_requests_and_its_queue_moves(two_nodes: World) -> None:
    two_nodes.arrives("r1")
    two_nodes.arrives("r2")
    commands = two_nodes.receives(a_report("alpha", [a_model_info(loaded=True)], draining=True))
    assert all(node == "spare" for _, node, _ in dispatches(commands))


def test_deadline_that_passes_while_waiting_is_504() -> None:
    world = a_world()
    world.receives(a_report("only", [a_model_info()]))
    world.arrives("r1")
    world.arrives("r2", deadline_at=world.now + 2.0)
    assert refusals(tick(world, 3.0)) == [("r2", 504)]


def test_no_wakeup_without_nodes_and_requests() -> None:
    world = a_world()
    assert world.dispatcher.next_wakeup() is None
    world.receives(a_report("alpha"))
    assert world.dispatcher.next_wakeup() is not None


def test_every_admitted_request_ends_exactly_once_whatever_happens() -> None:
    """Random events in random order, seeded: each request gets one terminal row, and nothing is left behind."""
    for seed in range(60):
        rng = Random(seed)
        world = a_world(retries=RetrySettings(retries_max=2), holding=HoldingSettings(wait_max_s=5.0, held_max=6))
        _storm(world, rng)
        while world.dispatcher.live_requests:
            _end_what_streams(world)
            tick(world, 30.0)
        arrived = {c.request.id for c in world.commands if isinstance(c, Record)}
        for request_id in arrived:
            terminal = [o for o in world.rows(request_id) if o is not Outcome.RETRIED]
            assert len(terminal) == 1, f"seed {seed}: {request_id} ended as {terminal}"
        assert world.dispatcher.live_requests == {}, f"seed {seed}"


def _end_what_streams(world: World) -> None:
    """The relay tells when a stream stalls; the core need not watch it."""
    for live_request in list(world.dispatcher.live_requests.values()):
        if live_request.state.value == "streaming":
            world.fails(live_request.request.id, live_request.attempts, FailureKind.STALLED, forwarded=5)


def _storm(world: World, rng: Random) -> None:
    nodes = ["a", "b", "c"]
    for step in range(120):
        world.now += rng.random()
        live_requests = list(world.dispatcher.live_requests.values())
        roll = rng.random()
        if roll < 0.3:
            world.arrives(
                f"r{step}", rng.choice(["m", "n"]), fallbacks=rng.choice([[], ["n"]]), size_bytes=rng.randrange(9)
            )
        elif roll < 0.45:
            model_infos = [
                a_model_info(name, loaded=rng.random() < 0.5, slots=rng.choice([1, 2]))
                for name in ("m", "n")
                if rng.random() < 0.8
            ]
            world.receives(
                a_report(rng.choice(nodes), model_infos, draining=rng.random() < 0.1, boot_id=rng.choice(["1", "2"]))
            )
        elif roll < 0.5:
            world.feed(NodeLeft(world.now, NodeId(rng.choice(nodes))))
        elif roll < 0.6:
            world.feed(Ticked(world.now))
        elif live_requests:
            _something_happens(world, rng, rng.choice(live_requests))


def _something_happens(world: World, rng: Random, live_request: LiveRequest) -> None:
    roll, number = rng.random(), live_request.attempts
    if roll < 0.3 and live_request.state.value == "dispatched":
        world.first_byte(live_request.request.id, number)
    elif roll < 0.6 and live_request.state.value == "streaming":
        world.finishes(live_request.request.id, number)
    elif roll < 0.85:
        kind = rng.choice(list(FailureKind))
        world.fails(
            live_request.request.id, number, kind, forwarded=5 if live_request.state.value == "streaming" else 0
        )
    else:
        world.feed(ClientLeft(world.now, live_request.request.id))
