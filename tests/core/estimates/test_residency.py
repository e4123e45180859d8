"""Tests which models count as loaded before a heartbeat shows it."""

from __future__ import annotations

from dataclasses import replace

from builders import World, a_model_info, a_report, a_world
from herd.core.state.commands import Dispatch
from herd.core.state.events import AttemptFinished, FirstByte
from herd.core.state.fleet import GB, Gpu, Loaded, Node, Report, canonical
from herd.core.state.request import Counters, RequestId

M, K = canonical("m"), canonical("k")


def a_box(m_loaded: bool, k_loaded: bool, node_id: str = "box") -> Report:
    model_infos = [a_model_info("m", size_gb=14.0, loaded=m_loaded), a_model_info("k", size_gb=14.0, loaded=k_loaded)]
    used = 14 * GB * (m_loaded + k_loaded)
    return a_report(
        node_id, model_infos, gpus=(Gpu("RTX 4090", 24 * GB, used),), memory_bandwidth_gbps=1008.0, memory_gb=64
    )


def the_node(world: World) -> Node:
    return next(iter(world.dispatcher.fleet))


def serve(world: World, request_id: str, model: str, seconds: float = 2.0) -> None:
    [command] = [c for c in world.arrives(request_id, model) if isinstance(c, Dispatch)]
    world.now += seconds
    world.feed(FirstByte(world.now, RequestId(request_id), command.attempt))
    world.feed(AttemptFinished(world.now, RequestId(request_id), command.attempt, Counters(100, 20)))


def test_model_evicted_by_a_load_counts_as_unloaded_before_a_report_shows_it() -> None:
    world = a_world(policy="completion_time")
    world.receives(a_box(m_loaded=True, k_loaded=False))
    residency, node = world.dispatcher.forecast.residency, the_node(world)
    assert residency.is_loaded(node, M)
    serve(world, "r1", "k")
    assert not residency.is_loaded(node, M)
    world.receives(a_box(m_loaded=True, k_loaded=False))  # an old report, still on its way when the load began
    assert not residency.is_loaded(node, M)
    world.receives(a_box(m_loaded=False, k_loaded=True))
    assert residency.is_loaded(node, K)


def test_models_that_evict_each_other_count_as_unloaded_in_turn() -> None:
    """Without a report in between: the second load evicts the model of the first load."""
    world = a_world(policy="completion_time")
    world.receives(a_box(m_loaded=True, k_loaded=False))
    residency, node = world.dispatcher.forecast.residency, the_node(world)
    serve(world, "r1", "k")
    serve(world, "r2", "m")
    assert K not in node.loading_until
    assert M in node.loading_until
    assert residency.residents(node) == [M]


def test_both_models_stay_loaded_if_they_fit() -> None:
    world = a_world(policy="completion_time")
    model_infos = [a_model_info("m", size_gb=2.0, loaded=True), a_model_info("k", size_gb=2.0)]
    world.receives(a_report("roomy", model_infos, memory_gb=64))
    serve(world, "r1", "k")
    assert world.dispatcher.forecast.residency.is_loaded(the_node(world), M)


def test_least_recently_used_model_is_evicted_at_the_maximum_number_of_models() -> None:
    world = a_world(policy="completion_time")
    model_infos = [a_model_info(name, size_gb=1.0, loaded=name != "new") for name in ("a", "b", "c", "new")]
    full = [replace(model_info, engine=replace(model_info.engine, models_max=3)) for model_info in model_infos]
    world.receives(a_report("full", full, memory_gb=64))
    for number, name in enumerate(("a", "c", "b")):
        serve(world, f"r{number}", name)
    serve(world, "last", "new")
    residency, node = world.dispatcher.forecast.residency, the_node(world)
    assert [residency.is_loaded(node, canonical(name)) for name in ("a", "b", "c")] == [False, True, True]


def test_footprint_is_learned_on_the_node_and_estimated_for_other_nodes() -> None:
    world = a_world(policy="completion_time")
    model_info = a_model_info("m", size_gb=5.0, loaded=True)
    loaded = replace(model_info, loaded=Loaded(8 * GB, 4096))
    world.receives(
        a_report("knows", [loaded], memory_gb=64), a_report("other", [a_model_info("m", size_gb=5.0)], memory_gb=64)
    )
    residency, fleet = world.dispatcher.forecast.residency, world.dispatcher.fleet
    other = fleet.nodes["other"]  # type: ignore[index]
    assert residency.footprint_bytes(other, other.report.models[M], M) == 8 * GB
    fresh = a_model_info("new", size_gb=5.0, slots=4, kv_bytes_per_token=100_000)
    assert residency.footprint_bytes(other, fresh, canonical("new")) == int(5.0 * GB) + 4 * 4096 * 100_000
