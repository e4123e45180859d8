"""Tests that requests go to the node that is expected to finish first."""

from __future__ import annotations

from builders import World, a_model_info, a_report, a_request, a_world, all_signals
from herd.core.state.commands import Dispatch
from herd.core.state.events import AttemptFinished, FirstByte
from herd.core.state.fleet import GB, Gpu, Report
from herd.core.state.request import Counters, RequestId

FAST = Gpu("RTX 4090", 24 * GB, 2 * GB)


def a_gpu_box(name: str = "gpu", **more: object) -> Report:
    model_infos = more.pop("models", [a_model_info(size_gb=5.0)])
    return a_report(name, model_infos, gpus=(FAST,), memory_bandwidth_gbps=1008.0, **more)  # type: ignore[arg-type]


def a_slow_box(name: str = "old-server", **more: object) -> Report:
    model_infos = more.pop("models", [a_model_info(size_gb=5.0, loaded=True)])
    return a_report(name, model_infos, memory_bandwidth_gbps=40.0, **more)  # type: ignore[arg-type]


def chosen(world: World, request_id: str = "r1", **more: object) -> str:
    [command] = [c for c in world.arrives(request_id, **more) if isinstance(c, Dispatch)]  # type: ignore[arg-type]
    return command.node_id


def complete(world: World, request_id: str, counters: Counters, seconds: float = 1.0) -> None:
    number = world.dispatcher.live_requests[RequestId(request_id)].attempts
    world.feed(FirstByte(world.now, RequestId(request_id), number))
    world.now += seconds
    world.feed(AttemptFinished(world.now, RequestId(request_id), number, counters))


def test_fast_node_with_a_cold_load_beats_a_slow_node_if_it_finishes_first() -> None:
    """What points can never say: they know no speed, and cold can at best tie with hot."""
    world = a_world(policy="completion_time")
    world.receives(a_slow_box(), a_gpu_box())
    assert chosen(world, prompt_tokens=2000) == "gpu"
    points = a_world(policy="signals")
    points.receives(a_slow_box(), a_gpu_box())
    assert chosen(points, prompt_tokens=2000) == "old-server"


def test_load_in_progress_is_not_started_on_another_node() -> None:
    """A second request for a cold model waits where the first one is loading it, rather than load it twice."""
    world = a_world(policy="completion_time")
    model_infos = [a_model_info(size_gb=20.0, slots=4)]
    world.receives(a_gpu_box("a", models=model_infos), a_gpu_box("b", models=model_infos))
    first = chosen(world, "r1")
    world.now += 5.0
    assert chosen(world, "r2") == first


def test_conversation_returns_to_the_node_with_its_cached_prefix() -> None:
    world = a_world(policy="completion_time")
    model_infos = [a_model_info(size_gb=5.0, loaded=True, context_tokens=32768)]
    world.receives(a_slow_box("a", models=model_infos), a_slow_box("b", models=model_infos))
    blocks = tuple(range(20))
    assert chosen(world, "r1", prompt_tokens=2560, prefix=blocks) == "a"
    complete(world, "r1", Counters(2560, 10, prefill_s=9.0, decode_s=1.0), seconds=10.0)
    assert chosen(world, "other", prompt_tokens=100) == "a"
    complete(world, "other", Counters(100, 10, prefill_s=0.4, decode_s=1.0))
    assert chosen(world, "blocker", prompt_tokens=10) == "a"
    # "a" is busy with another request now, but has nearly all of this conversation in its cache.
    world.arrives("r2", prompt_tokens=2700, prefix=(*blocks, 99))
    decision = world.dispatcher.live_requests[RequestId("r2")].decision
    assert decision is not None and decision.chosen == "a"


def test_reload_clears_the_cached_prefixes() -> None:
    world = a_world(policy="completion_time")
    world.receives(a_slow_box("a"))
    blocks = tuple(range(20))
    chosen(world, "r1", prompt_tokens=2560, prefix=blocks)
    complete(world, "r1", Counters(2560, 10))
    forecast, node = world.dispatcher.forecast, next(iter(world.dispatcher.fleet))
    model = next(iter(node.report.models))
    assert forecast.prefixes.cached_tokens(node.id, model, blocks) == 2560
    world.receives(a_slow_box("a", models=[a_model_info(size_gb=5.0, loaded=True, context_tokens=8192)]))
    assert forecast.prefixes.cached_tokens(node.id, model, blocks) == 0


def test_wrong_reported_bandwidth_is_corrected_by_measurements() -> None:
    world = a_world(policy="completion_time")
    liar = a_report("liar", [a_model_info(size_gb=5.0, loaded=True)], memory_bandwidth_gbps=800.0)
    honest = a_report("honest", [a_model_info(size_gb=5.0, loaded=True)], memory_bandwidth_gbps=100.0)
    world.receives(liar, honest)
    for number in range(6):
        where = chosen(world, f"r{number}", prompt_tokens=500)
        step_s = 0.5 if where == "liar" else 0.07
        prompt_speed = 10.0 if where == "liar" else 60.0
        complete(world, f"r{number}", Counters(500, 100, prefill_s=500 / prompt_speed, decode_s=100 * step_s))
    assert chosen(world, "last", prompt_tokens=500) == "honest"


def test_another_busy_model_on_the_node_slows_the_request() -> None:
    world = a_world(policy="completion_time")
    both = [a_model_info("m", size_gb=5.0, loaded=True), a_model_info("k", size_gb=5.0, loaded=True)]
    world.receives(a_slow_box("a", models=both), a_slow_box("b", models=both))
    assert chosen(world, "r1", model="k") == "a"
    assert chosen(world, "r2", model="m") == "b"


def test_eviction_that_delays_other_requests_is_avoided() -> None:
    """A load here would evict a model that is requested all the time; the other node has free memory."""
    world = a_world(policy="completion_time")
    popular, big = a_model_info("popular", size_gb=16.0, loaded=True), a_model_info("big", size_gb=16.0)
    world.receives(
        a_gpu_box("full", models=[popular, big], memory_gb=64),
        a_report("roomy", [big], gpus=(Gpu("RTX 3090", 24 * GB, 0),), memory_bandwidth_gbps=936.0, memory_gb=64),
    )
    full = a_report(
        "full", [popular, big], gpus=(Gpu("RTX 4090", 24 * GB, 17 * GB),), memory_bandwidth_gbps=1008.0, memory_gb=64
    )
    world.receives(full)
    for number in range(10):
        assert chosen(world, f"p{number}", model="popular") == "full"
        complete(world, f"p{number}", Counters(100, 50, prefill_s=0.02, decode_s=0.5), seconds=0.6)
    assert chosen(world, "r", model="big") == "roomy"


def test_every_candidate_has_expected_terms_and_points() -> None:
    world = a_world(policy="completion_time")
    world.receives(a_slow_box(), a_gpu_box())
    world.arrives()
    decision = world.dispatcher.live_requests[RequestId("r1")].decision
    assert decision is not None
    for scored in decision.scored:
        assert set(scored.expected_s) == {"wait", "load", "prefill", "decode", "harm", "total"}
        assert set(scored.terms) == {signal.name for signal in all_signals()}
        parts = sum(value for name, value in scored.expected_s.items() if name != "total")
        assert abs(parts - scored.expected_s["total"]) < 1e-9


def test_points_computed_later_are_those_at_the_time_of_the_decision() -> None:
    """The points may be read only after the node's memory, queues and report have changed."""
    world = a_world(policy="completion_time")
    other = a_model_info("other", size_gb=20.0, loaded=True)
    world.receives(a_slow_box("a", models=[a_model_info(size_gb=5.0), other], memory_gb=32, used_gb=24))
    request = a_request(model="m")
    early = world.dispatcher.scheduler.decide(request, request.model, world.now)
    late = world.dispatcher.scheduler.decide(request, request.model, world.now)
    expected = dict(early.scored[0].terms)
    world.arrives("busy", model="other")
    world.receives(a_slow_box("a", models=[a_model_info(size_gb=5.0, loaded=True)], memory_gb=128, used_gb=127))
    assert late.scored[0].terms == expected


def test_points_are_computed_on_access_and_equal_those_of_the_signals() -> None:
    world, points = a_world(policy="completion_time"), a_world(policy="signals")
    for each in (world, points):
        each.receives(a_slow_box(), a_gpu_box())
        each.arrives()
    [ours, theirs] = [each.dispatcher.live_requests[RequestId("r1")].decision for each in (world, points)]
    assert ours is not None and theirs is not None
    assert {scored.node_id: (scored.total, scored.terms) for scored in ours.scored} == {
        scored.node_id: (scored.total, scored.terms) for scored in theirs.scored
    }


def test_long_prefill_delays_the_next_request() -> None:
    """Both nodes are equal and have free slots; on one of them a long prompt is read at the moment."""
    world = a_world(policy="completion_time")
    model_infos = [a_model_info(size_gb=5.0, loaded=True, slots=4, context_tokens=32768)]
    world.receives(a_slow_box("a", models=model_infos), a_slow_box("b", models=model_infos))
    reading = chosen(world, "long", prompt_tokens=8000)
    world.now += 0.1
    assert chosen(world, "short", prompt_tokens=50) != reading
    decision = world.dispatcher.live_requests[RequestId("short")].decision
    assert decision is not None
    waits = {scored.node_id: scored.expected_s["wait"] for scored in decision.scored}
    assert waits[reading] > 10.0
    world.first_byte("long")
    world.arrives("later", prompt_tokens=50)
    decision = world.dispatcher.live_requests[RequestId("later")].decision
    assert decision is not None
    assert {scored.node_id: scored.expected_s["wait"] for scored in decision.scored}[reading] == 0.0


def test_context_window_larger_than_the_loaded_one_costs_a_reload() -> None:
    world = a_world(policy="completion_time")
    small, large = ([a_model_info(size_gb=5.0, loaded=True, context_tokens=tokens)] for tokens in (4096, 65536))
    world.receives(a_slow_box("small", models=small), a_slow_box("large", models=large))
    assert chosen(world, "r1", wanted_window_tokens=65536) == "large"
    decision = world.dispatcher.live_requests[RequestId("r1")].decision
    assert decision is not None
    loads = {scored.node_id: scored.expected_s["load"] for scored in decision.scored}
    assert loads["large"] == 0.0 and loads["small"] > 2.0


def test_expected_wait_for_a_slot_is_longer_with_unpredictable_lengths() -> None:
    waits = {}
    for kind, lengths in (("regular", [200] * 60), ("heavy", [30] * 40 + [4000] * 20)):
        world = a_world(policy="completion_time")
        world.receives(a_slow_box("a"))
        outputs, model = world.dispatcher.forecast.outputs, next(iter(next(iter(world.dispatcher.fleet)).report.models))
        for number, tokens in enumerate(lengths):
            outputs.learn(a_request(f"x{number}"), model, tokens)
        world.arrives("r1")
        decision = world.dispatcher.live_requests[RequestId("r1")].decision
        assert decision is not None
        service_s = decision.scored[0].expected_s["prefill"] + decision.scored[0].expected_s["decode"]
        world.now += 0.8 * service_s
        world.arrives("r2")
        decision = world.dispatcher.live_requests[RequestId("r2")].decision
        assert decision is not None
        waits[kind] = decision.scored[0].expected_s["wait"] / service_s
    assert waits["regular"] < 0.35
    assert waits["heavy"] > 0.7


def test_all_streams_of_a_busy_node_count_although_only_a_sample_is_read() -> None:
    """Equal requests that run on one node: what the next one costs them grows with their number, far beyond sixteen."""
    world = a_world(policy="completion_time")
    world.receives(a_gpu_box(models=[a_model_info(size_gb=5.0, loaded=True, slots=512)]))
    harms, waits = [], []
    for number in range(129):
        world.arrives(f"r{number}", prompt_tokens=400)
        decision = world.dispatcher.live_requests[RequestId(f"r{number}")].decision
        assert decision is not None
        harms.append(decision.scored[0].expected_s["harm"])
        waits.append(decision.scored[0].expected_s["wait"])
    for values in (harms, waits):
        assert 1.8 < values[32] / values[16] < 2.2
        assert 3.0 < values[128] / values[32] < 5.0


def harm_of_waiting(world: World, request_id: str, **more: object) -> tuple[float, float]:
    """Seconds that others would lose, and the wait, if it queued at the only node."""
    world.arrives(request_id, **more)  # type: ignore[arg-type]
    decision = world.dispatcher.live_requests[RequestId(request_id)].decision
    assert decision is not None
    return decision.scored[0].expected_s["harm"], decision.scored[0].expected_s["wait"]


def test_queued_request_delays_later_requests_more_at_high_utilization() -> None:
    """On an idle fleet the queue is empty before the next request; on a busy one each later request waits longer."""
    found = {}
    for busy_s in (1.0, 300.0, 5000.0):
        world = a_world(policy="completion_time")
        world.receives(a_slow_box("a"))
        world.arrives("r1", output_tokens_max=100_000)
        world.now += busy_s
        found[busy_s] = harm_of_waiting(world, "r2", prompt_tokens=100)[0]
    assert found[1.0] < 1.0 < found[300.0] < found[5000.0]


def test_short_queued_request_delays_later_requests_less() -> None:
    found = []
    for tokens in (2, 200):
        world = a_world(policy="completion_time")
        world.receives(a_slow_box("a"))
        world.arrives("r1")
        world.now += 300.0
        harm_s, wait_s = harm_of_waiting(world, "r2", output_tokens_max=tokens)
        assert wait_s > 0.0
        found.append(harm_s)
    assert found[0] < 0.5 * found[1]


def test_request_with_a_free_slot_does_not_delay_later_requests() -> None:
    world = a_world(policy="completion_time")
    world.receives(a_slow_box("a", models=[a_model_info(size_gb=5.0, loaded=True, slots=2)]))
    assert harm_of_waiting(world, "r1") == (0.0, 0.0)
