"""Tests that the plan saves as much time as it can within the memory of the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import pytest

from herd.core.planning.placement_planner import (
    PAIRS_MAX,
    Assignment,
    ModelDemand,
    ModelOnNode,
    NodeCapacity,
    PlacementOption,
    PlacementPlan,
    plan,
)
from herd.core.state.fleet import GB, ModelName, NodeId


def a_demand(model: str = "m", per_hour: float = 60.0) -> ModelDemand:
    return ModelDemand(ModelName(model), per_hour / 3600)


def an_option(
    node: str = "alpha",
    model: str = "m",
    size_gb: float = 5.0,
    serve_s: float = 4.0,
    load_s: float = 10.0,
    slots: int = 1,
) -> PlacementOption:
    return PlacementOption(NodeId(node), ModelName(model), int(size_gb * GB), serve_s, load_s, slots)


def a_capacity(node: str = "alpha", memory_gb: float = 16.0, models_max: int | None = None) -> NodeCapacity:
    return NodeCapacity(NodeId(node), int(memory_gb * GB), models_max)


def places(*pairs: tuple[str, str]) -> set[tuple[str, str]]:
    return set(pairs)


def result_with(
    demands: Sequence[ModelDemand], options: Sequence[PlacementOption], resident: Iterable[ModelOnNode]
) -> PlacementPlan:
    """The plan's figures if exactly these models are in memory."""
    assignment = Assignment(demands, options)
    assignment.resident = {pair for pair in resident if pair in {option.model_on_node for option in options}}
    return assignment.result()


def test_requested_model_is_planned_where_it_fits() -> None:
    assert plan([a_demand()], [an_option()], [a_capacity()]).resident == places(("alpha", "m"))


def test_model_without_requests_is_not_planned() -> None:
    assert plan([a_demand(per_hour=0)], [an_option()], [a_capacity()]).resident == frozenset()


def test_model_that_does_not_fit_is_not_planned() -> None:
    assert plan([a_demand()], [an_option(size_gb=20)], [a_capacity()]).resident == frozenset()


def test_the_model_that_saves_more_gets_the_memory() -> None:
    demands = [a_demand("often", 100), a_demand("seldom", 1)]
    options = [an_option(model="often", size_gb=12), an_option(model="seldom", size_gb=12)]
    assert plan(demands, options, [a_capacity()]).resident == places(("alpha", "often"))


def test_two_small_models_beat_one_large_that_alone_saves_more() -> None:
    demands = [a_demand("large", 60), a_demand("a", 45), a_demand("b", 45)]
    options = [an_option(model="large", size_gb=15), an_option(model="a", size_gb=7), an_option(model="b", size_gb=7)]
    assert plan(demands, options, [a_capacity()]).resident == places(("alpha", "a"), ("alpha", "b"))


def test_one_large_model_beats_a_small_one_that_saves_more_for_each_byte() -> None:
    demands = [a_demand("large", 100), a_demand("small", 10)]
    options = [an_option(model="large", size_gb=15.5), an_option(model="small", size_gb=1)]
    assert plan(demands, options, [a_capacity()]).resident == places(("alpha", "large"))


def test_plan_respects_the_maximum_number_of_models_of_an_engine() -> None:
    demands, options = [a_demand("a"), a_demand("b", 30)], [an_option(model="a"), an_option(model="b")]
    assert plan(demands, options, [a_capacity(models_max=1)]).resident == places(("alpha", "a"))


def test_model_that_fills_its_node_is_planned_on_a_second_node() -> None:
    options = [an_option("alpha"), an_option("beta", serve_s=6.0)]
    capacities = [a_capacity("alpha"), a_capacity("beta")]
    assert plan([a_demand(per_hour=30)], options, capacities).resident == places(("alpha", "m"))
    assert plan([a_demand(per_hour=800)], options, capacities).resident == places(("alpha", "m"), ("beta", "m"))


def test_the_faster_node_is_preferred() -> None:
    options = [an_option("alpha", serve_s=9.0), an_option("beta", serve_s=2.0)]
    assert plan([a_demand(per_hour=10)], options, [a_capacity("alpha"), a_capacity("beta")]).resident == places(
        ("beta", "m")
    )


def test_present_placement_can_be_compared() -> None:
    demands, options = [a_demand(per_hour=10)], [an_option()]
    cold, warm = result_with(demands, options, []), result_with(demands, options, [options[0].model_on_node])
    assert cold.request_s["m"] == pytest.approx(14.0, rel=0.1)
    assert warm.request_s["m"] == pytest.approx(4.0, rel=0.1)
    assert cold.total_s_per_s - warm.total_s_per_s == pytest.approx(10 * 10 / 3600, rel=0.1)


def test_unknown_placements_are_ignored() -> None:
    assert result_with([a_demand()], [an_option()], [(NodeId("gone"), ModelName("m"))]).resident == frozenset()


def a_fleet(rng: Random) -> tuple[list[ModelDemand], list[PlacementOption], list[NodeCapacity]]:
    demands = [a_demand(f"m{i}", rng.choice((0.5, 5, 50, 500))) for i in range(6)]
    capacities = [a_capacity(f"n{i}", rng.choice((8, 16, 48)), rng.choice((None, 2))) for i in range(4)]
    options = [
        an_option(
            capacity.node_id,
            demand.model,
            rng.uniform(2, 20),
            rng.uniform(1, 20),
            rng.uniform(2, 30),
            rng.choice((1, 4)),
        )
        for capacity in capacities
        for demand in demands
        if rng.random() < 0.7
    ]
    return demands, options, capacities


@pytest.mark.parametrize("seed", range(40))
def test_no_plan_breaks_a_limit_or_is_worse_than_nothing(seed: int) -> None:
    demands, options, capacities = a_fleet(Random(seed))
    found = plan(demands, options, capacities)
    sizes = {option.model_on_node: option.size_bytes for option in options}
    for capacity in capacities:
        here = [place for place in found.resident if place[0] == capacity.node_id]
        assert sum(sizes[place] for place in here) <= capacity.memory_bytes, seed
        assert capacity.models_max is None or len(here) <= capacity.models_max, seed
    assert found.total_s_per_s <= result_with(demands, options, []).total_s_per_s + 1e-9, seed


@pytest.mark.parametrize("seed", range(10))
def test_order_of_the_inputs_does_not_change_the_plan(seed: int) -> None:
    demands, options, capacities = a_fleet(Random(seed))
    turned = plan(demands[::-1], options[::-1], capacities[::-1])
    assert turned == plan(demands, options, capacities), seed


def test_number_of_options_is_limited_in_a_large_fleet() -> None:
    demands = [a_demand(f"m{i}", 1 + i) for i in range(400)]
    options = [an_option(f"n{n}", f"m{i}") for i in range(400) for n in range(10)]
    assert len(options) > PAIRS_MAX
    found = result_with(demands, options, [])
    assert len(found.request_s) == 60 and ModelName("m399") in found.request_s
