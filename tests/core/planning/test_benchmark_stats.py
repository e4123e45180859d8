"""Tests the probes of a benchmark, their results, and the comparison of two runs."""

from __future__ import annotations

import math
from random import Random

import pytest

from builders import a_model_info
from herd.core.estimates.hardware_priors import Speed
from herd.core.planning.benchmark_stats import (
    PARALLEL_STREAMS,
    REPETITIONS,
    BenchmarkCell,
    Probe,
    ProbeKind,
    ProbeResult,
    Spread,
    cells,
    compare,
    estimate_s,
    probes_for,
    spread,
)
from herd.core.state.fleet import ModelName, NodeId

ALPHA, M = NodeId("alpha"), ModelName("m:latest")
ALL = frozenset(ProbeKind)


def kinds(probes: list[Probe]) -> list[tuple[ProbeKind, int]]:
    return [(probe.kind, probe.streams) for probe in probes]


def a_cell(
    decode: float = 50.0, low: float | None = None, high: float | None = None, node: str = "alpha", **more: Spread
) -> BenchmarkCell:
    return BenchmarkCell(NodeId(node), M, Spread(decode, low or decode * 0.99, high or decode * 1.01, 3), **more)


def test_loaded_model_is_probed_for_prefill_decode_and_scaling_up_to_its_slots() -> None:
    found = kinds(probes_for(ALPHA, M, a_model_info("m", loaded=True, slots=4), ALL))
    assert found == [(ProbeKind.DECODE, 1)] * REPETITIONS + [(ProbeKind.PREFILL, 1)] * REPETITIONS + [
        (ProbeKind.CONCURRENCY, 2),
        (ProbeKind.CONCURRENCY, 4),
    ]


def test_model_on_disk_is_loaded_first() -> None:
    assert kinds(probes_for(ALPHA, M, a_model_info("m"), frozenset({ProbeKind.PREFILL})))[0] == (ProbeKind.LOAD, 1)


def test_scaling_is_not_measured_with_one_slot() -> None:
    assert ProbeKind.CONCURRENCY not in {
        kind for kind, _ in kinds(probes_for(ALPHA, M, a_model_info("m", loaded=True), ALL))
    }
    assert PARALLEL_STREAMS == (2, 4, 8)


def test_embedding_model_is_not_measured() -> None:
    assert probes_for(ALPHA, M, a_model_info("m", capabilities=frozenset({"embedding"})), ALL) == []


def test_probe_prompt_fits_into_half_of_the_context_window() -> None:
    probes = probes_for(ALPHA, M, a_model_info("m", loaded=True, context_tokens=600), frozenset({ProbeKind.PREFILL}))
    assert {probe.prompt_tokens for probe in probes} == {300}


def test_estimated_duration_includes_load_prefill_and_decode() -> None:
    speed = Speed(1000.0, 0.02, 0.5, 8.0, 8.0)
    assert estimate_s(Probe(ALPHA, M, ProbeKind.LOAD), speed) == pytest.approx(8.2)
    assert estimate_s(Probe(ALPHA, M, ProbeKind.PREFILL, prompt_tokens=500, output_tokens=1), speed) == pytest.approx(
        0.2 + 0.5 + 0.02
    )
    assert estimate_s(Probe(ALPHA, M, ProbeKind.CONCURRENCY, 4, 10, 10), speed) == pytest.approx(0.2 + 0.04 + 10 * 0.05)


def test_results_become_one_cell_for_each_pair() -> None:
    def shown(kind: ProbeKind, streams: int = 1, **figures: float) -> ProbeResult:
        return ProbeResult(probe=Probe(ALPHA, M, kind, streams), **figures)  # type: ignore[arg-type]

    [cell] = cells(
        [
            shown(ProbeKind.LOAD, load_s=3.0),
            *(
                shown(ProbeKind.DECODE, decode_tok_s=speed, first_s=first)
                for speed, first in ((40, 0.1), (50, 0.3), (44, 0.2))
            ),
            shown(ProbeKind.PREFILL, prefill_tok_s=900.0),
            shown(ProbeKind.CONCURRENCY, 4, tok_s=120.0),
            shown(ProbeKind.CONCURRENCY, 2, tok_s=80.0),
        ]
    )
    assert cell.decode_tok_s == Spread(44, 40, 50, 3) and cell.ttft_s == Spread(0.2, 0.1, 0.3, 3)
    assert cell.load_s == Spread(3.0, 3.0, 3.0, 1) and cell.prefill_tok_s == Spread(900.0, 900.0, 900.0, 1)
    assert cell.scaling == ((1, 44), (2, 80.0), (4, 120.0))


@pytest.mark.parametrize("values", [[], [None], [0.0, -1.0, math.inf, math.nan]])
def test_invalid_values_are_ignored(values: list[float | None]) -> None:
    assert spread(values) is None


def test_clear_difference_is_reported_with_uncertainty_and_probable_cause() -> None:
    found = compare([a_cell(50.0)], [a_cell(56.0)], {ALPHA: "ollama 0.31.2 -> 0.32.15"})
    assert found.summary == (
        "12 % faster, +-3 %; largest: decode of m:latest on alpha (+12 %); "
        "probable cause: ollama 0.31.2 -> 0.32.15 on alpha."
    )
    assert found.change == pytest.approx(0.12)


def test_random_variation_is_not_a_difference() -> None:
    found = compare([a_cell(50.0, 40.0, 60.0)], [a_cell(54.0, 44.0, 64.0)], {ALPHA: "another driver"})
    assert found.summary.startswith("No significant difference (+8 %, +-") and "driver" not in found.summary


def test_tiny_difference_is_ignored_even_if_exact() -> None:
    assert compare([a_cell(50.0, 49.99, 50.01)], [a_cell(51.0, 50.99, 51.01)], {}).summary.startswith(
        "No significant difference"
    )


def test_lower_times_are_better() -> None:
    slow, fast = Spread(0.4, 0.39, 0.41, 3), Spread(0.2, 0.19, 0.21, 3)
    found = compare([a_cell(ttft_s=slow)], [a_cell(ttft_s=fast)], {})
    [first] = [difference for difference in found.differences if difference.measure == "ttft_ms"]
    assert first.change == pytest.approx(1.0) and first.is_clear


def test_runs_without_a_common_pair_cannot_be_compared() -> None:
    assert compare([a_cell()], [a_cell(node="beta")], {}).summary == "The two runs have no node and model in common."


def test_two_runs_of_the_same_machine_rarely_differ() -> None:
    """Ten percent of noise, three repetitions, four models: at most one pair of runs in twenty may differ."""
    rng = Random(7)

    def a_run() -> list[BenchmarkCell]:
        found = []
        for number in range(4):
            seen = spread(rng.gauss(50.0, 5.0) for _ in range(REPETITIONS))
            assert seen is not None
            found.append(BenchmarkCell(ALPHA, ModelName(f"m{number}"), seen))
        return found

    wrong = sum(not compare(a_run(), a_run(), {}).summary.startswith("No significant difference") for _ in range(400))
    assert wrong <= 20


def test_real_difference_is_usually_found() -> None:
    rng = Random(11)

    def a_run(speed: float) -> list[BenchmarkCell]:
        seen = [spread(rng.gauss(speed, 1.0) for _ in range(REPETITIONS)) for _ in range(4)]
        return [BenchmarkCell(ALPHA, ModelName(f"m{number}"), decode_tok_s) for number, decode_tok_s in enumerate(seen)]

    assert (
        sum(compare(a_run(50.0), a_run(55.0), {}).summary.partition(" %")[2].startswith(" faster") for _ in range(200))
        >= 180
    )
