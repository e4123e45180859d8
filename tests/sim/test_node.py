"""Tests that the node model behaves like an engine: by queueing theory, and by the rules of the engine."""

from __future__ import annotations

from random import Random

from herd.core.state.fleet import canonical
from sim.hardware import LLAMA_3B, LLAMA_8B, LLAMA_70B, MAC_STUDIO_ULTRA, QWEN_14B, RTX_4090, Machine, Model
from sim.node import NodeSpec, SimNode
from sim.requests import SimRequest
from sim.runner import Run

EMBEDDINGS = Model("only-prompts", 1.0, 1.0, is_embedding=True)
ONE_SLOT = Machine(name="one", kind="gpu", chip="RTX 4090", memory_gb=22, bandwidth_gbps=1008, prompt_8b=6900, slots=1)


def a_request(
    name: str, model: Model, at: float = 0.0, prompt: int = 100, output: int = 10, **more: object
) -> SimRequest:
    return SimRequest(
        id=name,
        at=at,
        model=model.name,
        prompt_tokens=prompt,
        output_tokens=output,
        estimate=prompt,
        is_embedding=model.is_embedding,
        **more,
    )  # type: ignore[arg-type]


def play(node: SimNode, requests: list[SimRequest]) -> dict[str, tuple[float, float]]:
    """When each request's first and last token came, by its name."""
    coming, found, open_count = (
        [Run(request=request, attempt=1, arrived_at=request.at) for request in requests],
        {},
        len(requests),
    )
    while open_count:
        at = min(node.next_at(), coming[0].arrived_at if coming else float("inf"))
        assert at < float("inf"), "somebody waits for ever"
        for run, _ in node.advance(at).done:
            assert run.first_at is not None
            found[run.request.id] = (run.first_at, at)
            open_count -= 1
        while coming and coming[0].arrived_at <= at:
            node.submit(coming.pop(0), at)
    return found


def test_one_slot_waits_as_long_as_queueing_theory_says() -> None:
    """M/G/1: mean wait = rate * E[S^2] / 2 (1 - load), Pollaczek and Khinchine."""
    rng = Random(3)
    node = SimNode(NodeSpec(name="n", machine=ONE_SLOT, models=(EMBEDDINGS,), loaded=(EMBEDDINGS,), keep_alive_s=1e9))
    speed = node.truth[canonical(EMBEDDINGS.name)]
    requests, at = [], 0.0
    for number in range(30_000):
        at += rng.expovariate(1.0)
        tokens = max(1, round(rng.lognormvariate(0.0, 0.6) * 0.58 * speed.prompt_per_s))
        requests.append(a_request(f"r{number}", EMBEDDINGS, at, tokens))
    speed.prompt_depth = 1e12
    services = [request.prompt_tokens / speed.prompt_per_s for request in requests]
    rate, mean = len(requests) / at, sum(services) / len(services)
    square = sum(s * s for s in services) / len(services)
    expected = mean + rate * square / (2 * (1 - rate * mean))
    found = play(node, requests)
    mean_s = sum(found[request.id][1] - request.at for request in requests) / len(requests)
    assert abs(mean_s / expected - 1) < 0.06, (mean_s, expected, rate * mean)


def test_request_that_needs_a_load_blocks_the_requests_behind_it() -> None:
    for is_strict in (True, False):
        node = SimNode(
            NodeSpec(
                name="n",
                machine=MAC_STUDIO_ULTRA,
                models=(LLAMA_3B, LLAMA_70B),
                loaded=(LLAMA_3B,),
                has_strict_queue=is_strict,
            )
        )
        found = play(node, [a_request("cold", LLAMA_70B), a_request("hot", LLAMA_3B, 0.001)])
        assert (found["hot"][0] > 10.0) is is_strict
        assert found["cold"][0] > 10.0


def test_only_idle_models_are_evicted_and_a_load_waits_for_busy_ones() -> None:
    node = SimNode(NodeSpec(name="n", machine=RTX_4090, models=(LLAMA_8B, QWEN_14B), loaded=(LLAMA_8B,)))
    found = play(node, [a_request("long", LLAMA_8B, output=500), a_request("other", QWEN_14B, 0.1)])
    assert found["other"][0] > found["long"][1]
    assert canonical(LLAMA_8B.name) not in node.runners
    assert node.tally.loads == 1


def test_number_of_loaded_models_is_limited() -> None:
    small = [Model(f"m{number}", 0.5, 0.5) for number in range(5)]
    node = SimNode(NodeSpec(name="n", machine=MAC_STUDIO_ULTRA, models=tuple(small)))
    for number, model in enumerate(small):
        play(node, [a_request(f"r{number}", model, 10.0 * number)])
        assert len(node.runners) <= 3
    assert canonical("m0") not in node.runners


def test_idle_model_is_unloaded_after_its_keep_alive_and_reloads_faster() -> None:
    node = SimNode(NodeSpec(name="n", machine=RTX_4090, models=(QWEN_14B,), keep_alive_s=60.0))
    cold = play(node, [a_request("a", QWEN_14B)])["a"][0]
    node.advance(100.0)
    assert not node.runners
    warm = play(node, [a_request("b", QWEN_14B, 100.0)])["b"][0] - 100.0
    assert warm < 0.7 * cold
    assert node.tally.bytes_read == QWEN_14B.size_bytes


def test_larger_window_reloads_the_model_and_clears_its_cache() -> None:
    node = SimNode(NodeSpec(name="n", machine=RTX_4090, models=(LLAMA_8B,), loaded=(LLAMA_8B,)))
    blocks = tuple(range(8))
    play(node, [a_request("a", LLAMA_8B, prompt=1024, blocks=blocks)])
    play(node, [a_request("b", LLAMA_8B, 5.0, prompt=1024, blocks=blocks)])
    assert node.tally.hit_tokens == 1023
    play(node, [a_request("c", LLAMA_8B, 10.0, prompt=1024, blocks=blocks, wanted_window_tokens=16384)])
    assert node.tally.loads == 1
    assert node.tally.hit_tokens == 1023


def test_prompt_without_its_slot_is_restored_from_main_memory() -> None:
    for entries, is_kept in ((4, True), (0, False)):
        node = SimNode(
            NodeSpec(name="n", machine=ONE_SLOT, models=(LLAMA_8B,), loaded=(LLAMA_8B,), cache_entries=entries)
        )
        mine = tuple(range(30))
        play(node, [a_request("a", LLAMA_8B, 0.0, 3840, blocks=mine)])
        play(node, [a_request("b", LLAMA_8B, 5.0, 3840, blocks=tuple(range(100, 130)))])
        again = play(node, [a_request("c", LLAMA_8B, 10.0, 3840, blocks=mine)])["c"][0] - 10.0
        assert (again < 0.2) is is_kept


def test_streams_stall_during_a_prefill_and_then_share_steps() -> None:
    node = SimNode(NodeSpec(name="n", machine=RTX_4090, models=(LLAMA_8B,), loaded=(LLAMA_8B,)))
    alone = play(node, [a_request("a", LLAMA_8B, 0.0, output=200)])["a"][1]
    pair = [a_request("b", LLAMA_8B, 100.0, output=200), a_request("c", LLAMA_8B, 100.5, prompt=7000, output=200)]
    found = play(node, pair)
    assert found["b"][1] - 100.0 > alone + 0.8
    assert found["c"][1] - found["c"][0] > alone * 0.95


def test_two_models_share_the_machine() -> None:
    both = (LLAMA_3B, LLAMA_8B)
    node = SimNode(NodeSpec(name="n", machine=MAC_STUDIO_ULTRA, models=both, loaded=both))
    alone = play(node, [a_request("a", LLAMA_8B, output=300)])["a"][1]
    shared = (
        play(node, [a_request("b", LLAMA_8B, 100.0, output=300), a_request("c", LLAMA_3B, 100.0, output=3000)])["b"][1]
        - 100.0
    )
    assert 1.8 * alone < shared < 2.2 * alone


def test_a_laptop_throttles_after_minutes_of_work_and_recovers() -> None:
    machine = Machine(
        name="hot",
        kind="apple",
        chip="Apple M3 Max",
        memory_gb=46,
        bandwidth_gbps=400,
        prompt_8b=678,
        slots=1,
        throttles=True,
    )
    node = SimNode(NodeSpec(name="n", machine=machine, models=(LLAMA_8B,), loaded=(LLAMA_8B,), keep_alive_s=1e9))
    assert node.report().thermal_state == "nominal"
    play(node, [a_request("a", LLAMA_8B, output=60_000)])
    assert node.speed_share() < 0.7
    assert node.report().thermal_state in ("serious", "critical")
    node.advance(node.now + 1200)
    assert node.speed_share() == 1.0


def test_counters_are_those_of_ollama() -> None:
    """Cached tokens are in the prompt's count; the load holds the line's wait; a load in progress is not reported."""
    node = SimNode(NodeSpec(name="n", machine=RTX_4090, models=(QWEN_14B,)))
    run = Run(request=a_request("a", QWEN_14B, prompt=500, output=20), attempt=1, arrived_at=0.0)
    node.submit(run, 0.0)
    assert all(model_info.loaded is None for model_info in node.report().models.values())
    progress = node.advance(node.next_at())
    while not progress.done:
        progress = node.advance(node.next_at())
    counters = progress.done[0][1]
    assert (counters.prompt_tokens, counters.completion_tokens, counters.cached_tokens) == (500, 20, None)
    assert counters.load_s is not None and 3.0 < counters.load_s < 6.0
    assert counters.prefill_s and counters.decode_s
