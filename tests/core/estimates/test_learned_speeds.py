"""Tests how speeds of pairs, nodes and models are learned, and loads from disk and from the page cache."""

from __future__ import annotations

import pytest

from builders import a_model_info, a_report
from herd.core.estimates.hardware_priors import active_share, prior
from herd.core.estimates.learned_speeds import LearnedSpeeds, SpeedSample
from herd.core.state.fleet import Fleet, Node, canonical

M, K = canonical("m"), canonical("k")


def a_fleet(*names: str) -> list[Node]:
    fleet = Fleet()
    return [
        fleet.apply_heartbeat(
            a_report(name, [a_model_info("m"), a_model_info("k", size_gb=5.0)], memory_bandwidth_gbps=100.0), 1.0
        )
        for name in names
    ]


def a_sample(node: Node, model: str, faster: float, streams: float = 1.0, **more: object) -> SpeedSample:
    """A sample of a machine that is `faster` times as fast as its prior."""
    start = prior(node.report, node.report.models[canonical(model)])
    fields = {
        "uncached_tokens": 1000,
        "prefill_s": 1000 / start.prompt_tokens_per_s / faster,
        "decoded_tokens": 100,
        "decode_s": 100 * start.step_s / faster,
        "load_s": None,
        **more,
    }
    return SpeedSample(**fields, streams=streams)  # type: ignore[arg-type]


def test_pair_is_estimated_as_it_was_measured() -> None:
    [node] = a_fleet("a")
    rates, start = LearnedSpeeds(), prior(node.report, node.report.models[M])
    for _ in range(4):
        rates.learn(node, M, a_sample(node, "m", 2.0))
    assert rates.speed(node, M).prompt_tokens_per_s == pytest.approx(2 * start.prompt_tokens_per_s)
    assert rates.speed(node, M).step_s == pytest.approx(start.step_s / 2)


def test_node_faster_with_some_models_is_expected_to_be_faster_with_others() -> None:
    [node] = a_fleet("a")
    rates, start = LearnedSpeeds(), prior(node.report, node.report.models[K])
    for _ in range(12):
        rates.learn(node, M, a_sample(node, "m", 2.0))
    assert 1.2 * start.prompt_tokens_per_s < rates.speed(node, K).prompt_tokens_per_s <= 2 * start.prompt_tokens_per_s


def test_unusual_model_does_not_distort_the_estimates_of_nodes() -> None:
    """A mixture of experts is several times faster than its size says; the node's other models are not."""
    nodes = a_fleet("a", "b", "c")
    rates = LearnedSpeeds()
    for _ in range(10):
        for node in nodes[:2]:
            rates.learn(node, M, a_sample(node, "m", 5.0))
            rates.learn(node, K, a_sample(node, "k", 1.0))
    third, start = nodes[2], prior(nodes[2].report, nodes[2].report.models[M])
    assert rates.speed(third, M).prompt_tokens_per_s > 3 * start.prompt_tokens_per_s
    assert rates.speed(third, K).prompt_tokens_per_s == pytest.approx(
        prior(third.report, third.report.models[K]).prompt_tokens_per_s, rel=0.3
    )


def test_parallel_streams_teach_the_batch_slope_and_other_models_teach_nothing() -> None:
    [node] = a_fleet("a")
    rates = LearnedSpeeds()
    rates.learn(node, M, a_sample(node, "m", 1.0))
    for _ in range(60):
        rates.learn(node, M, a_sample(node, "m", 1 / 1.3, streams=2.0))
    assert rates.speed(node, M).batch_slope == pytest.approx(0.3, rel=0.1)
    before = rates.speed(node, M).batch_slope
    rates.learn(node, M, a_sample(node, "m", 0.1, streams=0.0))
    assert rates.speed(node, M).batch_slope == before
    assert rates.speed(node, M).step_s == pytest.approx(prior(node.report, node.report.models[M]).step_s)


def test_loads_from_the_page_cache_do_not_change_cold_loads() -> None:
    [node] = a_fleet("a")
    rates, start = LearnedSpeeds(), prior(node.report, node.report.models[M])
    for _ in range(5):
        rates.learn(
            node,
            K,
            a_sample(node, "k", 1.0, load_s=0.2 * prior(node.report, node.report.models[K]).load_s, was_warm=True),
        )
    assert rates.speed(node, M).cold_load_s == pytest.approx(start.load_s)
    node.unloaded_at[M] = 1.0
    warm = LearnedSpeeds()
    for _ in range(5):
        warm.learn(
            node,
            K,
            a_sample(node, "k", 1.0, load_s=0.2 * prior(node.report, node.report.models[K]).load_s, was_warm=True),
        )
    assert warm.speed(node, M).load_s == pytest.approx(0.2 * start.load_s)


def test_queued_load_time_is_an_upper_bound() -> None:
    [node] = a_fleet("a")
    rates, start = LearnedSpeeds(), prior(node.report, node.report.models[M])
    rates.learn(node, M, a_sample(node, "m", 1.0, load_s=10 * start.load_s, is_load_exact=False))
    assert rates.speed(node, M).load_s == pytest.approx(start.load_s)
    rates.learn(node, M, a_sample(node, "m", 1.0, load_s=0.5 * start.load_s, is_load_exact=False))
    assert rates.speed(node, M).load_s == pytest.approx(0.5 * start.load_s)


@pytest.mark.parametrize(
    ("name", "share"),
    [("qwen3:30b-a3b", 0.1), ("gpt-oss:20b", 0.17), ("hf.co/x/mixtral:8x7b", 0.28), ("llama3.1:8b", 1.0)],
)
def test_mixtures_of_experts_are_recognized_by_name(name: str, share: float) -> None:
    assert active_share(a_model_info(name)) == pytest.approx(share)


def test_learned_speeds_are_restored_and_corrected_by_new_measurements() -> None:
    [node] = a_fleet("a")
    before, after = LearnedSpeeds(), LearnedSpeeds()
    for _ in range(6):
        before.learn(node, M, a_sample(node, "m", 2.0))
    memories = before.changes()
    for memory in memories:
        after.restore(memory)
    start = prior(node.report, node.report.models[M])
    assert after.speed(node, M).prompt_tokens_per_s == pytest.approx(2 * start.prompt_tokens_per_s)
    for _ in range(3):
        after.learn(node, M, a_sample(node, "m", 1.0))
    assert after.speed(node, M).prompt_tokens_per_s < 1.3 * start.prompt_tokens_per_s
    after.restore(memories[0])
    assert after.speed(node, M).prompt_tokens_per_s < 1.3 * start.prompt_tokens_per_s
