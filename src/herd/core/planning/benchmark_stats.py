"""Plans the probes of a benchmark run, summarizes their results, and compares two runs.

A run is a list of probes; each sends a few requests to one model on one node. A figure is the median of its
repetitions, with the lowest and highest value. Two runs are compared by the logarithm of the ratio of their medians.
Its uncertainty follows from the ranges, as in control charts (a range divided by d2 of its size estimates the standard
deviation), and is given as twice the standard error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from herd.core.estimates.hardware_priors import Speed
from herd.core.state.fleet import ModelInfo, ModelName, NodeId

REPETITIONS = 3
SHORT_PROMPT_TOKENS, LONG_PROMPT_TOKENS = 16, 512
"""Prompt lengths: for time to first token and decoding, and for prefill."""
OUTPUT_TOKENS = 64
CONCURRENCY_TOKENS = 48
PARALLEL_STREAMS = (2, 4, 8)
"""Numbers of parallel streams, as far as the engine has slots; a single stream is measured by the decode probe."""
PROBES_MAX = 2_000
OVERHEAD_S = 0.2
"""Overhead of each request, beside the model's time."""
_D2 = (0.0, 0.0, 1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078)
"""By number of samples of a normal distribution: their mean range in standard deviations (control-chart constants)."""
SINGLE_ERROR = 0.1
"""Relative standard error of a figure with one sample."""
CLEAR_MIN = 0.03
"""Least relative difference that counts, even if it was measured exactly."""


class ProbeKind(Enum):
    """What a probe measures: the name as people read it, and the value as the API has it."""

    LOAD = "load"
    DECODE = "generation"
    PREFILL = "prompt"
    CONCURRENCY = "scaling"


@dataclass(frozen=True, slots=True)
class Probe:
    """`streams` parallel requests with `prompt_tokens` each, that produce `output_tokens`."""

    node_id: NodeId
    model: ModelName
    kind: ProbeKind
    streams: int = 1
    prompt_tokens: int = SHORT_PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS

    @property
    def requests(self) -> int:
        return self.streams


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The measurements of one probe, in tokens per second and seconds; None if not measured. `tok_s`: all streams
    together."""

    probe: Probe
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    tok_s: float | None = None
    first_s: float | None = None
    load_s: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, the lowest and the highest, and their number."""

    median: float
    low: float
    high: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class BenchmarkCell:
    """The figures of one model on one node. `scaling`: tokens per second of all streams together, by number of
    streams."""

    node_id: NodeId
    model: ModelName
    decode_tok_s: Spread | None = None
    prefill_tok_s: Spread | None = None
    ttft_s: Spread | None = None
    load_s: Spread | None = None
    scaling: tuple[tuple[int, float], ...] = ()

    def figures(self) -> Iterator[tuple[str, Spread, bool]]:
        """Each figure, and whether a higher value is better."""
        for name, spread, is_higher_better in (
            ("decode_tok_s", self.decode_tok_s, True),
            ("prefill_tok_s", self.prefill_tok_s, True),
            ("ttft_ms", self.ttft_s, False),
            ("load_s", self.load_s, False),
        ):
            if spread is not None:
                yield name, spread, is_higher_better


# --- probes ---


def probes_for(node_id: NodeId, model: ModelName, model_info: ModelInfo, kinds: frozenset[ProbeKind]) -> list[Probe]:
    """The probes in order; a load comes first, because it brings the model into memory."""
    if not is_measurable(model_info):
        return []
    found = (
        [Probe(node_id, model, ProbeKind.LOAD, prompt_tokens=0, output_tokens=0)] if model_info.loaded is None else []
    )
    if ProbeKind.DECODE in kinds:
        found += [Probe(node_id, model, ProbeKind.DECODE)] * REPETITIONS
    if ProbeKind.PREFILL in kinds:
        found += [
            Probe(node_id, model, ProbeKind.PREFILL, prompt_tokens=_prompt_tokens(model_info), output_tokens=1)
        ] * REPETITIONS
    if ProbeKind.CONCURRENCY in kinds:
        found += [
            Probe(node_id, model, ProbeKind.CONCURRENCY, streams, output_tokens=CONCURRENCY_TOKENS)
            for streams in PARALLEL_STREAMS
            if streams <= model_info.engine.slots
        ]
    return found


def is_measurable(model_info: ModelInfo) -> bool:
    """Whether the model generates text; embedding models are not measured."""
    return not model_info.capabilities or bool(model_info.capabilities & {"completion", "chat"})


def _prompt_tokens(model_info: ModelInfo) -> int:
    window = model_info.loaded.window_tokens if model_info.loaded is not None else None
    return min(LONG_PROMPT_TOKENS, (window or LONG_PROMPT_TOKENS * 2) // 2)


def estimate_s(probe: Probe, speed: Speed) -> float:
    """How long this probe will take, by the present speed estimate."""
    if probe.kind is ProbeKind.LOAD:
        return OVERHEAD_S + (speed.cold_load_s or speed.load_s)
    prefill_s = probe.streams * probe.prompt_tokens / max(speed.prompt_tokens_per_s, 1e-6)
    return OVERHEAD_S + prefill_s + probe.output_tokens * speed.step_with_s(probe.streams)


# --- results ---


def cells(results: Iterable[ProbeResult]) -> list[BenchmarkCell]:
    """One for each pair of node and model, in the order of their first probes."""
    by_pair: dict[tuple[NodeId, ModelName], list[ProbeResult]] = {}
    for result in results:
        by_pair.setdefault((result.probe.node_id, result.probe.model), []).append(result)
    return [_cell(node_id, model, of_pair) for (node_id, model), of_pair in by_pair.items()]


def _cell(node_id: NodeId, model: ModelName, results: Sequence[ProbeResult]) -> BenchmarkCell:
    decode = [result for result in results if result.probe.kind is ProbeKind.DECODE]
    alone = spread(result.decode_tok_s for result in decode)
    scaling = [(1, alone.median)] if alone is not None else []
    scaling += sorted(
        (result.probe.streams, result.tok_s)
        for result in results
        if result.probe.kind is ProbeKind.CONCURRENCY and result.tok_s is not None
    )
    return BenchmarkCell(
        node_id,
        model,
        alone,
        spread(result.prefill_tok_s for result in results if result.probe.kind is ProbeKind.PREFILL),
        spread(result.first_s for result in decode),
        spread(result.load_s for result in results if result.probe.kind is ProbeKind.LOAD),
        tuple(scaling),
    )


def spread(values: Iterable[float | None]) -> Spread | None:
    """None without values; invalid values are ignored."""
    seen = sorted(value for value in values if value is not None and 0.0 < value < math.inf)
    if not seen:
        return None
    half = len(seen) // 2
    return Spread(seen[half] if len(seen) % 2 else (seen[half - 1] + seen[half]) / 2, seen[0], seen[-1], len(seen))


# --- comparison of two runs ---


@dataclass(frozen=True, slots=True)
class Difference:
    """`change` is relative, and positive if the second run is better; `plus_minus` is twice its standard error."""

    node_id: NodeId
    model: ModelName
    measure: str
    first: float
    second: float
    change: float
    plus_minus: float

    @property
    def is_clear(self) -> bool:
        return abs(self.change) > max(self.plus_minus, CLEAR_MIN)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences of figures that both runs measured. `change`: of the decode speed, or of all figures without
    one."""

    differences: tuple[Difference, ...]
    summary: str
    change: float = 0.0
    plus_minus: float = 0.0


def compare(
    first: Iterable[BenchmarkCell], second: Iterable[BenchmarkCell], changed: Mapping[NodeId, str]
) -> Comparison:
    """`changed`: by node, a text about what changed between the two runs ("engine 0.31.2 -> 0.32.15")."""
    known = {(cell.node_id, cell.model): cell for cell in first}
    found = [
        difference
        for cell in second
        if (before := known.get((cell.node_id, cell.model))) is not None
        for difference in _differences(before, cell)
    ]
    if not found:
        return Comparison((), "The two runs have no node and model in common.")
    counted = [difference for difference in found if difference.measure == "decode_tok_s"] or found
    change, plus_minus = _pooled(counted)
    return Comparison(tuple(found), _summary(change, plus_minus, found, changed), change, plus_minus)


def _differences(before: BenchmarkCell, after: BenchmarkCell) -> Iterator[Difference]:
    figures = {name: seen for name, seen, _ in before.figures()}
    for name, seen, is_higher_better in after.figures():
        was = figures.get(name)
        if was is None:
            continue
        log = math.log(seen.median / was.median) * (1 if is_higher_better else -1)
        change = math.exp(log) - 1.0
        error = 2.0 * math.hypot(_log_error(was), _log_error(seen))
        yield Difference(
            after.node_id,
            after.model,
            name,
            was.median,
            seen.median,
            change,
            (1.0 + change) * math.expm1(min(error, 10.0)),
        )


def _log_error(seen: Spread) -> float:
    """Standard error of the logarithm of the median; the median of a few values is a quarter less exact than their
    mean."""
    if seen.count < 2:
        return SINGLE_ERROR
    d2 = _D2[min(seen.count, len(_D2) - 1)]
    return max(0.005, 1.25 * math.log(seen.high / seen.low) / d2 / math.sqrt(seen.count))


def _pooled(found: Sequence[Difference]) -> tuple[float, float]:
    """The geometric mean of the changes, and its uncertainty: the larger one of their own errors and of their
    spread."""
    logs = [math.log1p(max(difference.change, -0.999)) for difference in found]
    mean = sum(logs) / len(logs)
    own_error = math.sqrt(
        sum(math.log1p(difference.plus_minus / (1.0 + difference.change)) ** 2 for difference in found)
    ) / len(found)
    spread_error = (
        2.0 * math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs)) if len(logs) > 1 else 0.0
    )
    change = math.expm1(mean)
    return change, (1.0 + change) * math.expm1(min(max(own_error, spread_error), 10.0))


def _summary(change: float, plus_minus: float, found: Sequence[Difference], changed: Mapping[NodeId, str]) -> str:
    if abs(change) <= max(plus_minus, CLEAR_MIN):
        text = f"No significant difference ({100 * change:+.0f} %, +-{100 * plus_minus:.0f} %)"
    else:
        text = f"{abs(100 * change):.0f} % {'faster' if change > 0 else 'slower'}, +-{100 * plus_minus:.0f} %"
    clear = [difference for difference in found if difference.is_clear]
    nodes = sorted({difference.node_id for difference in clear})
    if clear:
        most = max(clear, key=lambda difference: abs(math.log1p(max(difference.change, -0.999))))
        measure = most.measure.partition("_")[0]
        text += f"; largest: {measure} of {most.model} on {most.node_id} ({100 * most.change:+.0f} %)"
    likely = [f"{changed[node_id]} on {node_id}" for node_id in nodes if node_id in changed]
    return f"{text}; probable cause: {', '.join(likely[:3])}." if likely else f"{text}."
