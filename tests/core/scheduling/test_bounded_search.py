"""Tests that a search that estimates only some nodes chooses the same node as a search through all of them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import World, a_capacity, a_model_info, a_report, a_request, a_world, all_filters, an_engine, an_engine_of
from herd.core.lifecycle import free_slots
from herd.core.lifecycle.prewarming import PrewarmSettings
from herd.core.scheduling import candidate_order, scheduler
from herd.core.scheduling.bounded_search import BoundedPolicy
from herd.core.scheduling.completion_time import CompletionTimeSettings, earliest_first
from herd.core.state.commands import Dispatch
from herd.core.state.decision import Decision, copy_kind
from herd.core.state.events import (
    AttemptFailed,
    AttemptFinished,
    ClientLeft,
    FirstByte,
    ModelsChanged,
    NodeLeft,
    RequestArrived,
    Ticked,
)
from herd.core.state.fleet import ModelInfo, ModelName, NodeId, Pressure, Report, canonical
from herd.core.state.request import Counters, Failure, FailureKind, Request, RequestId

NAMES = ("m", "big", "other")
STEPS = 120
FAILURES = (
    FailureKind.CONNECT,
    FailureKind.RESET,
    FailureKind.BUSY,
    FailureKind.UNAUTHORIZED,
    FailureKind.SERVER_ERROR,
)


@dataclass
class RandomFleet:
    """A world of nodes, each a little or much different, in which something happens at each step."""

    chance: random.Random
    world: World
    arrived: int = 0
    compared: int = 0
    pruned: int = 0
    running: dict[RequestId, Dispatch] = field(default_factory=dict)
    reports: dict[NodeId, Report] = field(default_factory=dict)

    def run(self, nodes: int, steps: int = STEPS) -> None:
        for number in range(nodes):
            self.beats(self.report(f"node-{number:03}"))
        for _ in range(steps):
            self.world.now += self.chance.choice((0.0, 0.01, 0.4, 3.0))
            step = self.chance.choice(
                (self.arrives, self.arrives, self.arrives, self.ends, self.ends, self.beats, self.changes, self.ticks)
            )
            step()

    def report(self, node_id: str) -> Report:
        chance = self.chance
        models = [self.model_info(name) for name in NAMES if chance.random() < 0.85]
        return a_report(
            node_id,
            models or [self.model_info("m")],
            memory_gb=chance.choice((16.0, 64.0)),
            pressure=Pressure.CRITICAL if chance.random() < 0.03 else Pressure.NORMAL,
            memory_bandwidth_gbps=chance.choice((100.0, 100.0, 400.0, 1000.0 * chance.random() + 1.0)),
            capacity=a_capacity(paused=chance.random() < 0.1) if chance.random() < 0.1 else None,
            draining=chance.random() < 0.03,
        )

    def model_info(self, name: str) -> ModelInfo:
        chance = self.chance
        engine = an_engine(chance.choice((1, 2, 4))) if chance.random() < 0.9 else an_engine_of("0.1.0", "llamacpp")
        if chance.random() < 0.05:
            engine = replace(engine, silent_s=4.0)
        return a_model_info(
            name,
            {"m": 5.0, "big": 20.0, "other": 2.0}[name],
            loaded=chance.random() < 0.6,
            engine=engine,
            digest=chance.choice(("", "a", "a", "b")),
            lacks=frozenset(("vision",)) if chance.random() < 0.3 else frozenset(),
        )

    def beats(self, report: Report | None = None) -> None:
        chance = self.chance
        if report is None:
            report = self.reports[chance.choice(list(self.reports))]
            if chance.random() < 0.5:
                report = replace(report, draining=chance.random() < 0.2, cpu_utilization=chance.random())
            else:
                boot_id = report.boot_id if chance.random() < 0.9 else f"boot-{chance.random()}"
                report = replace(self.report(report.node_id), boot_id=boot_id)
        self.reports[report.node_id] = report
        self.follow(self.world.receives(report))

    def arrives(self) -> None:
        self.arrived += 1
        chance = self.chance
        conversation = chance.randrange(4)
        blocks = [hash((conversation // 2, at)) for at in range(3)]
        blocks += [hash((conversation, at)) for at in range(3, chance.randrange(4, 9))]
        request = a_request(
            f"r{self.arrived}",
            chance.choice(NAMES),
            prompt_tokens=chance.choice((0, 40, 1100, 9000)),
            output_tokens_max=chance.choice((None, 1, 4000)),
            prefix=tuple(blocks) if chance.random() < 0.5 else (),
            needs=frozenset(("vision",)) if chance.random() < 0.2 else frozenset(),
            only_node="node-003" if chance.random() < 0.05 else "",
            wanted_window_tokens=chance.choice((None, 8192)),
            continuation_kinds=frozenset(("llamacpp",)) if chance.random() < 0.1 else frozenset(),
            digest=chance.choice(("", "", "b")),
            tenant=chance.choice(("", "team")),
            user=chance.choice(("", "", "ann", "bob")),
        )
        self.follow(self.world.feed(RequestArrived(self.world.now, request)))

    def ends(self) -> None:
        if not self.running:
            return
        request_id = self.chance.choice(list(self.running))
        sent, now = self.running.pop(request_id), self.world.now
        how = self.chance.random()
        if how < 0.15:
            failure = Failure(kind=self.chance.choice(FAILURES), retry_after_s=3.0)
            self.follow(self.world.feed(AttemptFailed(now, request_id, sent.attempt, failure)))
        elif how < 0.2:
            self.follow(self.world.feed(ClientLeft(now, request_id)))
        else:
            self.world.feed(FirstByte(now, request_id, sent.attempt))
            self.world.now = now = now + self.chance.choice((0.1, 2.0))
            counters = Counters(200, self.chance.choice((9, 400)), prefill_s=0.3, decode_s=self.chance.random() * 9.0)
            self.follow(self.world.feed(AttemptFinished(now, request_id, sent.attempt, counters)))

    def changes(self) -> None:
        node_id = self.chance.choice(list(self.reports))
        if self.chance.random() < 0.2 and len(self.reports) > 4:
            del self.reports[node_id]
            self.follow(self.world.feed(NodeLeft(self.world.now, node_id)))
            return
        name = self.chance.choice(NAMES)
        changed = self.model_info(name) if self.chance.random() < 0.7 else None
        self.follow(self.world.feed(ModelsChanged(self.world.now, node_id, {canonical(name): changed})))

    def ticks(self) -> None:
        for _ in range(self.chance.choice((1, 1, 30))):
            self.world.now += 0.5
            self.follow(self.world.feed(Ticked(self.world.now)))

    def follow(self, commands: Collection[object]) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                self.running[command.request_id] = command
        live = self.world.dispatcher.live_requests
        self.running = {
            request_id: sent
            for request_id, sent in self.running.items()
            if request_id in live and live[request_id].is_running and live[request_id].attempts == sent.attempt
        }

    def compare(self) -> None:
        """Every later decision is compared with the one of a search through all nodes."""
        here = self.world.dispatcher.scheduler
        decide, all_of = here.decide, here.decide_among_all

        def compared(request: Request, model: ModelName, now: float, tried: Collection[NodeId] = ()) -> Decision:
            found, wanted = decide(request, model, now, tried), all_of(request, model, now, tried)
            self.compared += 1
            self.pruned += found.pruned
            assert_same_choice(found, wanted)
            assert_ascending_bounds(here, request, wanted)
            slots = self.world.dispatcher.placement.free_slots
            nodes = here.fleet.with_model(model)
            assert slots.of_model(model, now) == sum(slots.slots(node, model, now) for node in nodes)
            looked_at = len(found.scored) + len(found.rejected) + found.pruned + found.unlisted
            if found.pruned or found.unlisted:
                assert looked_at == len(here.fleet.with_model(model))
            return found

        here.decide = compared  # type: ignore[method-assign]


def assert_same_choice(found: Decision, wanted: Decision) -> None:
    assert (found.chosen, found.is_panic) == (wanted.chosen, wanted.is_panic)
    times = {one.node_id: one.expected_s for one in wanted.scored}
    assert [one.expected_s for one in found.scored] == [times[one.node_id] for one in found.scored]
    assert found.scored == sorted(found.scored, key=earliest_first)
    assert {one.node_id for one in found.rejected if one.filter != "has_model"} <= {
        one.node_id for one in wanted.rejected
    }


def assert_ascending_bounds(here: scheduler.Scheduler, request: Request, wanted: Decision) -> None:
    """No bound of a group is above the one of its members, and none of those is above the estimate."""
    if not wanted.scored or here._bounded is None:
        return
    assert isinstance(here.policy, BoundedPolicy) and wanted.scored[0].candidate is not None
    expected = here.policy.request_estimate(request, wanted.model, wanted.scored[0].candidate.at)
    order = here._bounded._orders.of(wanted.model, expected.at)
    ascending = [bound for bound, _ in order.ascending(expected, ())]
    assert ascending == sorted(ascending)
    of_node = {node_id: least_s for least_s, _, node_id in ascending}
    too_high = [one for one in wanted.scored if of_node[one.node_id] > one.expected_s["total"]]
    assert not too_high, [(of_node[one.node_id], one.expected_s) for one in too_high]


@contextmanager
def limits(chance: random.Random) -> Iterator[None]:
    """Small limits, so that small fleets reach every branch that very large ones reach."""
    with (
        patch.object(scheduler, "BOUNDED_FROM_NODES", chance.choice((1, 2, 8))),
        patch.object(candidate_order, "GROUP_NODES", chance.choice((1, 2, 5, 24))),
        patch.object(free_slots, "COUNTED_FROM_NODES", chance.choice((2, 8))),
        patch.object(candidate_order, "HOLDERS_LISTED_MAX", chance.choice((0, 1, 3, 64))),
        patch.object(candidate_order, "ORDERS_MAX", chance.choice((1, 2, 64))),
    ):
        yield


@pytest.mark.replaces_methods
@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_search_with_bounds_chooses_the_node_of_a_full_search(seed: int) -> None:
    """Whatever happened before: loads, queues, users, cached prompts, learned speeds, failures, lost nodes."""
    chance = random.Random(seed)
    prewarm = PrewarmSettings() if chance.random() < 0.5 else None
    with limits(chance):
        fleet = RandomFleet(chance, a_world("completion_time", prewarm=prewarm, is_rebalancing=chance.random() < 0.5))
        fleet.compare()
        fleet.run(chance.randrange(3, 40))


def a_large_fleet(nodes: int, draining: bool = False, **more: object) -> World:
    """Many nodes with one model, of which the later ones are slower."""
    world = a_world("completion_time")
    for number in range(nodes):
        model_info = a_model_info(loaded=True, slots=4, **more)  # type: ignore[arg-type]
        world.receives(
            a_report(f"node-{number:03}", [model_info], memory_bandwidth_gbps=900.0 - number, draining=draining)
        )
    return world


def decision_of(world: World, request_id: str, **more: object) -> Decision:
    world.arrives(request_id, **more)
    decision = world.dispatcher.live_requests[RequestId(request_id)].decision
    assert decision is not None
    return decision


def test_few_of_very_many_nodes_are_estimated() -> None:
    """Idle, busy and with a prompt that all nodes have in their caches; the others are counted."""
    world, blocks = a_large_fleet(400), tuple(range(20))
    for number in range(40):
        decision = decision_of(world, f"r{number}")
        assert len(decision.scored) < 40
        assert len(decision.scored) + decision.pruned == 400 and not decision.rejected
    cache = world.dispatcher.forecast.prefixes
    for node in world.dispatcher.fleet:
        cache.add(node.id, canonical("m"), (*blocks, hash(node.id)), slots=4)
    assert len(decision_of(world, "shared", prompt_tokens=3000, prefix=(*blocks, 7)).scored) < 60


def test_nodes_of_a_small_fleet_are_all_listed() -> None:
    decision = decision_of(a_large_fleet(scheduler.BOUNDED_FROM_NODES - 1), "r1")
    assert len(decision.scored) == scheduler.BOUNDED_FROM_NODES - 1
    assert (decision.pruned, decision.unlisted) == (0, 0)


def test_copies_that_lack_something_are_rejected_all_at_once() -> None:
    world = a_large_fleet(400, lacks=frozenset(("vision",)))
    world.receives(a_report("sees", [a_model_info(loaded=True)], memory_bandwidth_gbps=1.0))
    decision = decision_of(world, "r1", needs=frozenset(("vision",)))
    assert decision.chosen == "sees"
    assert ([one.filter for one in decision.rejected], decision.unlisted) == (["capability"], 399)


def test_nodes_that_cannot_serve_are_listed_if_none_can() -> None:
    world = a_large_fleet(400, lacks=frozenset(("vision",)))
    request = a_request("r2", needs=frozenset(("vision",)))
    assert len(world.dispatcher.scheduler.decide(request, canonical("m"), world.now).rejected) == 400


def test_retry_beyond_the_budget_finds_a_free_slot_among_nodes_that_were_not_estimated() -> None:
    world = a_large_fleet(100)
    decision = decision_of(world, "r1")
    live_request = world.dispatcher.live_requests[RequestId("r1")]
    live_request.needs_budget, live_request.hold_until = True, world.now + 60.0
    with patch("herd.core.lifecycle.placement.has_budget", return_value=False):
        assert decision.pruned and not world.dispatcher.placement._is_over_budget(live_request, decision, world.now)


@pytest.mark.replaces_methods
def test_heartbeats_of_a_large_fleet_search_for_held_requests_only_if_the_node_can_serve_them() -> None:
    """1,000 heartbeats in five seconds must not cause 1,000 searches. The sweep still searches twice a second."""
    world, searches = a_large_fleet(60, lacks=frozenset(("vision",)), draining=True), list[str]()
    world.arrives("r1")
    here = world.dispatcher.scheduler
    decide_among_all = here.decide_among_all

    def counted(request: Request, model: ModelName, now: float, tried: Collection[NodeId] = ()) -> Decision:
        searches.append(request.id)
        return decide_among_all(request, model, now, tried)

    here.decide_among_all = counted  # type: ignore[method-assign]
    for node in list(world.dispatcher.fleet):
        world.receives(replace(node.report, cpu_utilization=3.0))
    world.receives(a_report("without", [a_model_info("other")]))
    assert not searches
    world.feed(Ticked(world.now + 0.5))
    assert searches == ["r1"]
    [dispatch] = [one for one in world.receives(a_report("ready", [a_model_info()])) if isinstance(one, Dispatch)]
    assert (dispatch.request_id, dispatch.node_id) == ("r1", "ready")


def test_negative_weights_have_no_bounds() -> None:
    """A delay of other requests would then be an advantage."""
    policy = a_world("completion_time").dispatcher.scheduler.policy
    assert isinstance(policy, BoundedPolicy) and policy.bounds.is_usable
    for wrong in (CompletionTimeSettings(harm_weight=-1.0), CompletionTimeSettings(eviction_weight=-1.0)):
        built = type(policy)(policy._forecast, policy._signals, wrong)  # type: ignore[attr-defined]
        assert not built.bounds.is_usable


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_filter_by_copy_rejects_all_equal_copies(seed: int) -> None:
    """It reads nothing of the node, and of its copy of the model only what `copy_kind` contains."""
    chance = random.Random(seed)
    fleet = RandomFleet(chance, a_world())
    for number in range(30):
        fleet.beats(replace(fleet.report(f"node-{number}"), draining=False))
    request = a_request(
        needs=frozenset(("vision",)),
        digest=chance.choice(("", "a", "b")),
        wants_thinking=chance.random() < 0.5,
        continuation_kinds=frozenset(chance.choice(((), ("ollama",), ("llamacpp",)))),
        special_fields=chance.choice(((), ("n",))),
        path="/v1/chat/completions",
    )
    here = fleet.world.dispatcher.scheduler
    reasons: dict[object, set[str | None]] = {}
    for node in fleet.world.dispatcher.fleet.with_model(canonical("m")):
        candidate = here._candidate(node, canonical("m"), fleet.world.now)
        for found in all_filters():
            if found.is_by_copy:
                key = found.name, copy_kind(candidate.model_info)
                reasons.setdefault(key, set()).add(found.rejection_reason(request, candidate))
    assert all(len(known) == 1 for known in reasons.values())
    assert any(known != {None} for known in reasons.values())
