"""Tests the replay of recorded decisions with the same rules and with other rules."""

from __future__ import annotations

from dataclasses import fields, replace
from random import Random

import pytest

from builders import World, a_capacity, a_model_info, a_report, a_request, a_world, all_signals
from herd.core.planning.replay import (
    DecisionRules,
    RecordedDecision,
    Replay,
    is_incomplete,
    rank_again,
    replay_decision,
)
from herd.core.scheduling.completion_time import (
    CompletionTimePolicy,
    CompletionTimeSettings,
    ObservedSignalPolicy,
    reweighted,
)
from herd.core.scheduling.scheduler import SignalPolicy
from herd.core.scheduling.signals import Weights
from herd.core.state.decision import Decision
from herd.core.state.request import Request

SIGNALS = all_signals()


def a_recorded_decision(rng: Random) -> tuple[World, Request]:
    """A fleet in the middle of work: some models in memory, some not, queues, quarrels over room."""
    world = a_world("completion_time")
    for number in range(rng.randint(2, 7)):
        model_infos = [
            a_model_info(
                name, rng.choice([1.0, 4.0, 12.0]), rng.random() < 0.5, rng.choice([2048, 8192]), rng.choice([1, 2])
            )
            for name in ("m", "k", "j")
        ]
        capacity = a_capacity(rng.choice(["rising", "stable", "falling"])) if rng.random() < 0.3 else None
        world.receives(
            a_report(
                f"n{number}",
                model_infos,
                rng.choice([16.0, 32.0, 256.0]),
                4.0,
                capacity=capacity,
                memory_bandwidth_gbps=rng.choice([50.0, 400.0]),
            )
        )
    for number in range(rng.randint(0, 25)):
        world.now += rng.random()
        world.arrives(f"before-{number}", rng.choice("mkj"), prompt_tokens=rng.randint(1, 4000))
    return world, a_request(
        "asked", "m", prompt_tokens=rng.randint(1, 9000), wanted_window_tokens=rng.choice([None, 4096])
    )


def decided(world: World, request: Request, rules: DecisionRules) -> Decision:
    signals, scheduler = SignalPolicy(SIGNALS, rules.weights), world.dispatcher.scheduler
    times = CompletionTimePolicy(world.dispatcher.forecast, signals, rules.times)
    scheduler.policy = times if rules.policy == times.name else ObservedSignalPolicy(times, signals)
    return scheduler.decide(request, request.model, world.now)


def a_choice(request: Request, decision: Decision, rules: DecisionRules) -> RecordedDecision:
    assert decision.chosen is not None
    return RecordedDecision(request, decision.model, decision.chosen, decision.scored, rules)


RULES = (
    DecisionRules(),
    DecisionRules("signals"),
    DecisionRules(times=CompletionTimeSettings(eviction_weight=0.0, harm_weight=0.0)),
    DecisionRules(times=CompletionTimeSettings(eviction_horizon_s=4000.0, eviction_weight=20.0, harm_weight=3.0)),
    DecisionRules("signals", Weights(model_hot=0.0, model_warm=30.0, queue_depth_max_penalty=300.0)),
)


@pytest.mark.parametrize("seed", range(40))
def test_replay_with_any_rules_gives_the_result_of_a_live_decision(seed: int) -> None:
    """Whatever rules were in force: the others find in what was recorded all they need, to the last bit."""
    world, request = a_recorded_decision(Random(seed))
    truths = [decided(world, request, rules) for rules in RULES]
    if truths[0].chosen is None:
        assert all(truth.chosen is None for truth in truths)
        return
    for recorded, in_force in zip(truths, RULES, strict=True):
        choice = a_choice(request, recorded, in_force)
        for truth, rules in zip(truths, RULES, strict=True):
            again = rank_again(choice, rules, SIGNALS)
            assert again is not None, f"seed {seed}"
            assert [scored.node_id for scored in again] == [scored.node_id for scored in truth.scored], (
                f"seed {seed}: {in_force.policy} to {rules}"
            )
            if rules.policy == "signals":
                assert [scored.terms for scored in again] == [scored.terms for scored in truth.scored], f"seed {seed}"
            else:
                assert [scored.expected_s for scored in again] == [scored.expected_s for scored in truth.scored], (
                    f"seed {seed}"
                )
            assert not is_incomplete(choice, rules)


def test_some_recorded_decisions_change_with_the_rules() -> None:
    changed = 0
    for seed in range(40):
        world, request = a_recorded_decision(Random(seed))
        changed += len({decided(world, request, rules).chosen for rules in RULES}) > 1
    assert changed >= 10


def test_saved_seconds_are_the_difference_of_the_estimates() -> None:
    """The hot node is slow: points love it, seconds do not."""
    world = a_world("completion_time")
    world.receives(
        a_report("hot", [a_model_info("m", 4.0, loaded=True)], memory_bandwidth_gbps=2.0),
        a_report("fast", [a_model_info("m", 4.0)], memory_bandwidth_gbps=800.0),
    )
    request = a_request("r", "m", prompt_tokens=500)
    choice = a_choice(request, decided(world, request, DecisionRules("signals")), DecisionRules("signals"))
    replayed = replay_decision(choice, DecisionRules(), SIGNALS)
    assert replayed is not None and (replayed.before, replayed.after) == ("hot", "fast")
    by_node = {scored.node_id: scored.expected_s for scored in choice.scored}
    assert replayed.own_saved_s == pytest.approx(by_node[replayed.before]["total"] - by_node[replayed.after]["total"])
    assert replayed.own_saved_s is not None and replayed.own_saved_s > 10.0
    assert replayed.others_saved_s == 0.0


def test_decision_without_estimates_is_not_replayed_by_time() -> None:
    world, request = a_recorded_decision(Random(3))
    recorded = decided(world, request, DecisionRules("signals"))
    for scored in recorded.scored:
        scored.expected_s = {}
    result = Replay()
    assert result.add(a_choice(request, recorded, DecisionRules("signals")), DecisionRules(), SIGNALS) is None
    assert (result.undecidable, result.totals.choices) == (1, 0)
    points = result.add(
        a_choice(request, recorded, DecisionRules("signals")),
        DecisionRules("signals", Weights(model_hot=-500.0)),
        SIGNALS,
    )
    assert points is not None and (points.own_saved_s is None) == points.has_changed


def test_missing_candidates_are_reported() -> None:
    world, request = a_recorded_decision(Random(5))
    choice = a_choice(request, decided(world, request, DecisionRules()), DecisionRules())
    assert is_incomplete(replace(choice, left_out=3), DecisionRules())
    result = Replay()
    result.add(replace(choice, left_out=3), DecisionRules(), SIGNALS)
    assert (result.incomplete, result.totals.choices, result.totals.changed) == (1, 1, 0)


def test_fingerprint_depends_on_every_weight_and_the_policy() -> None:
    rules = [DecisionRules(), DecisionRules("signals")]
    rules += [
        DecisionRules().changed(None, {weight.name: 7.125})
        for record in (Weights, CompletionTimeSettings)
        for weight in fields(record)
    ]
    assert len({rule_set.fingerprint for rule_set in rules}) == len(rules)
    assert DecisionRules().changed("completion_time", {"no_such": 1.0}).fingerprint == DecisionRules().fingerprint


def test_estimates_with_equal_weights_are_equal_to_the_last_bit() -> None:
    for seed in range(20):
        world, request = a_recorded_decision(Random(seed))
        for scored in decided(world, request, DecisionRules()).scored:
            assert reweighted(scored, CompletionTimeSettings()) == scored.expected_s, f"seed {seed}"
