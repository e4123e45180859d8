"""What should be in memory where: the plan saves what it can within the memory that is there."""

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


def a_want(model: str = "m", per_hour: float = 60.0) -> ModelDemand:
    return ModelDemand(ModelName(model), per_hour / 3600)


def a_home(
    node: str = "alpha",
    model: str = "m",
    size_gb: float = 5.0,
    serve_s: float = 4.0,
    load_s: float = 10.0,
    slots: int = 1,
) -> PlacementOption:
    return PlacementOption(NodeId(node), ModelName(model), int(size_gb * GB), serve_s, load_s, slots)


def a_room(node: str = "alpha", memory_gb: float = 16.0, models_max: int | None = None) -> NodeCapacity:
    return NodeCapacity(NodeId(node), int(memory_gb * GB), models_max)


def places(*pairs: tuple[str, str]) -> set[tuple[str, str]]:
    return set(pairs)


def result_with(
    demands: Sequence[ModelDemand], options: Sequence[PlacementOption], resident: Iterable[ModelOnNode]
) -> PlacementPlan:
    """The plan's figures if exactly these models are in memory."""
    assignment = Assignment(demands, options)
    assignment.resident = {one for one in resident if one in {option.model_on_node for option in options}}
    return assignment.result()


def test_requested_model_is_planned_where_it_fits() -> None:
    assert plan([a_want()], [a_home()], [a_room()]).resident == places(("alpha", "m"))


def test_model_without_requests_is_not_planned() -> None:
    assert plan([a_want(per_hour=0)], [a_home()], [a_room()]).resident == frozenset()


def test_model_that_does_not_fit_is_not_planned() -> None:
    assert plan([a_want()], [a_home(size_gb=20)], [a_room()]).resident == frozenset()


def test_the_model_that_saves_more_gets_the_memory() -> None:
    wants = [a_want("often", 100), a_want("seldom", 1)]
    homes = [a_home(model="often", size_gb=12), a_home(model="seldom", size_gb=12)]
    assert plan(wants, homes, [a_room()]).resident == places(("alpha", "often"))


def test_two_small_models_beat_one_large_that_alone_saves_more() -> None:
    wants = [a_want("large", 60), a_want("a", 45), a_want("b", 45)]
    homes = [a_home(model="large", size_gb=15), a_home(model="a", size_gb=7), a_home(model="b", size_gb=7)]
    assert plan(wants, homes, [a_room()]).resident == places(("alpha", "a"), ("alpha", "b"))


def test_one_large_model_beats_a_small_one_that_saves_more_for_each_byte() -> None:
    wants = [a_want("large", 100), a_want("small", 10)]
    homes = [a_home(model="large", size_gb=15.5), a_home(model="small", size_gb=1)]
    assert plan(wants, homes, [a_room()]).resident == places(("alpha", "large"))


def test_plan_respects_the_maximum_number_of_models_of_an_engine() -> None:
    wants, homes = [a_want("a"), a_want("b", 30)], [a_home(model="a"), a_home(model="b")]
    assert plan(wants, homes, [a_room(models_max=1)]).resident == places(("alpha", "a"))


def test_model_that_fills_its_node_is_planned_on_a_second_node() -> None:
    homes = [a_home("alpha"), a_home("beta", serve_s=6.0)]
    rooms = [a_room("alpha"), a_room("beta")]
    assert plan([a_want(per_hour=30)], homes, rooms).resident == places(("alpha", "m"))
    assert plan([a_want(per_hour=800)], homes, rooms).resident == places(("alpha", "m"), ("beta", "m"))


def test_the_faster_node_is_preferred() -> None:
    homes = [a_home("alpha", serve_s=9.0), a_home("beta", serve_s=2.0)]
    assert plan([a_want(per_hour=10)], homes, [a_room("alpha"), a_room("beta")]).resident == places(("beta", "m"))


def test_present_placement_can_be_compared() -> None:
    wants, homes = [a_want(per_hour=10)], [a_home()]
    cold, warm = result_with(wants, homes, []), result_with(wants, homes, [homes[0].model_on_node])
    assert cold.request_s["m"] == pytest.approx(14.0, rel=0.1)
    assert warm.request_s["m"] == pytest.approx(4.0, rel=0.1)
    assert cold.total_s_per_s - warm.total_s_per_s == pytest.approx(10 * 10 / 3600, rel=0.1)


def test_unknown_placements_are_ignored() -> None:
    assert result_with([a_want()], [a_home()], [(NodeId("gone"), ModelName("m"))]).resident == frozenset()


def a_fleet(dice: Random) -> tuple[list[ModelDemand], list[PlacementOption], list[NodeCapacity]]:
    wants = [a_want(f"m{i}", dice.choice((0.5, 5, 50, 500))) for i in range(6)]
    rooms = [a_room(f"n{i}", dice.choice((8, 16, 48)), dice.choice((None, 2))) for i in range(4)]
    homes = [
        a_home(
            room.node_id, want.model, dice.uniform(2, 20), dice.uniform(1, 20), dice.uniform(2, 30), dice.choice((1, 4))
        )
        for room in rooms
        for want in wants
        if dice.random() < 0.7
    ]
    return wants, homes, rooms


@pytest.mark.parametrize("seed", range(40))
def test_no_plan_breaks_a_limit_or_is_worse_than_nothing(seed: int) -> None:
    wants, homes, rooms = a_fleet(Random(seed))
    found = plan(wants, homes, rooms)
    sizes = {home.model_on_node: home.size_bytes for home in homes}
    for room in rooms:
        here = [place for place in found.resident if place[0] == room.node_id]
        assert sum(sizes[place] for place in here) <= room.memory_bytes, seed
        assert room.models_max is None or len(here) <= room.models_max, seed
    assert found.total_s_per_s <= result_with(wants, homes, []).total_s_per_s + 1e-9, seed


@pytest.mark.parametrize("seed", range(10))
def test_order_of_the_inputs_does_not_change_the_plan(seed: int) -> None:
    wants, homes, rooms = a_fleet(Random(seed))
    turned = plan(wants[::-1], homes[::-1], rooms[::-1])
    assert turned == plan(wants, homes, rooms), seed


def test_number_of_options_is_limited_in_a_large_fleet() -> None:
    wants = [a_want(f"m{i}", 1 + i) for i in range(400)]
    homes = [a_home(f"n{n}", f"m{i}") for i in range(400) for n in range(10)]
    assert len(homes) > PAIRS_MAX
    found = result_with(wants, homes, [])
    assert len(found.request_s) == 60 and ModelName("m399") in found.request_s
