"""How fast each node really is with each model: what is asked for that, what it showed, and whether two runs differ. Asks nobody.

A run is a list of probes, each a few plain requests to one model on one node. A figure is the median of its repetitions with the
lowest and highest seen. Two runs are compared by the logarithm of the ratio of their medians; its doubt follows from the ranges, as
in control charts (a range divided by d2 of its size estimates the standard deviation), and is told as twice the standard error.
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
"""For the first token and the writing; for the reading."""
WRITTEN_TOKENS = 64
SCALED_TOKENS = 48
SCALES = (2, 4, 8)
"""How many at once, as far as the engine has slots; one alone is the writing itself."""
PROBES_MAX = 2_000
OVERHEAD_S = 0.2
"""Of each request, beside what the model takes."""
_D2 = (0.0, 0.0, 1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078)
"""Mean range of so many draws of a normal distribution, in its standard deviations (any table of control-chart constants)."""
ALONE_DOUBT = 0.1
"""Relative standard error of a figure that was seen once."""
CLEAR_MIN = 0.03
"""Less than three percent is no difference that anybody notices, however surely it was measured."""


class ProbeKind(Enum):
    """What a probe measures."""

    LOAD = "load"
    WRITING = "generation"
    READING = "prompt"
    SCALING = "scaling"


@dataclass(frozen=True, slots=True)
class Probe:
    """`streams` requests at once, of `prompt_tokens` each, that write `written_tokens`."""

    node_id: NodeId
    model: ModelName
    kind: ProbeKind
    streams: int = 1
    prompt_tokens: int = SHORT_PROMPT_TOKENS
    written_tokens: int = WRITTEN_TOKENS

    @property
    def requests(self) -> int:
        return self.streams


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe showed. A figure is None where it showed none: tokens a second, seconds. `tok_s` is of all streams together."""

    probe: Probe
    read_tok_s: float | None = None
    written_tok_s: float | None = None
    tok_s: float | None = None
    first_s: float | None = None
    load_s: float | None = None
    prompt_tokens: int = 0
    written_tokens: int = 0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of what was seen, the ends of it, and how often it was seen."""

    median: float
    low: float
    high: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class BenchmarkCell:
    """One model on one node. `scaling`: tokens a second of all streams together, by how many there were."""

    node_id: NodeId
    model: ModelName
    decode_tok_s: Spread | None = None
    prefill_tok_s: Spread | None = None
    ttft_s: Spread | None = None
    load_s: Spread | None = None
    scaling: tuple[tuple[int, float], ...] = ()

    def figures(self) -> Iterator[tuple[str, Spread, bool]]:
        """Each with whether more of it is better."""
        for name, spread, is_more_better in (
            ("decode_tok_s", self.decode_tok_s, True),
            ("prefill_tok_s", self.prefill_tok_s, True),
            ("ttft_ms", self.ttft_s, False),
            ("load_s", self.load_s, False),
        ):
            if spread is not None:
                yield name, spread, is_more_better


# --- what is asked ---


def probes_for(node_id: NodeId, model: ModelName, card: ModelInfo, kinds: frozenset[ProbeKind]) -> list[Probe]:
    """In the order in which they are made; the load first, since it brings the model into memory."""
    if not is_measurable(card):
        return []
    found = [Probe(node_id, model, ProbeKind.LOAD, prompt_tokens=0, written_tokens=0)] if card.loaded is None else []
    if ProbeKind.WRITING in kinds:
        found += [Probe(node_id, model, ProbeKind.WRITING)] * REPETITIONS
    if ProbeKind.READING in kinds:
        found += [
            Probe(node_id, model, ProbeKind.READING, prompt_tokens=_fitting(card), written_tokens=1)
        ] * REPETITIONS
    if ProbeKind.SCALING in kinds:
        found += [
            Probe(node_id, model, ProbeKind.SCALING, streams, written_tokens=SCALED_TOKENS)
            for streams in SCALES
            if streams <= card.engine.slots
        ]
    return found


def is_measurable(card: ModelInfo) -> bool:
    """What writes text; an embedding model has other figures."""
    return not card.capabilities or bool(card.capabilities & {"completion", "chat"})


def _fitting(card: ModelInfo) -> int:
    window = card.loaded.window_tokens if card.loaded is not None else None
    return min(LONG_PROMPT_TOKENS, (window or LONG_PROMPT_TOKENS * 2) // 2)


def estimate_s(probe: Probe, speed: Speed) -> float:
    """How long this probe will take, by what is believed now."""
    if probe.kind is ProbeKind.LOAD:
        return OVERHEAD_S + (speed.cold_load_s or speed.load_s)
    reading_s = probe.streams * probe.prompt_tokens / max(speed.prompt_tokens_per_s, 1e-6)
    return OVERHEAD_S + reading_s + probe.written_tokens * speed.step_with_s(probe.streams)


# --- what it showed ---


def cells(shown: Iterable[ProbeResult]) -> list[BenchmarkCell]:
    """One for each pair of node and model, in the order in which they were first seen."""
    by_pair: dict[tuple[NodeId, ModelName], list[ProbeResult]] = {}
    for one in shown:
        by_pair.setdefault((one.probe.node_id, one.probe.model), []).append(one)
    return [_cell(node_id, model, of_pair) for (node_id, model), of_pair in by_pair.items()]


def _cell(node_id: NodeId, model: ModelName, shown: Sequence[ProbeResult]) -> BenchmarkCell:
    writing = [one for one in shown if one.probe.kind is ProbeKind.WRITING]
    alone = spread(one.written_tok_s for one in writing)
    scaling = [(1, alone.median)] if alone is not None else []
    scaling += sorted(
        (one.probe.streams, one.tok_s) for one in shown if one.probe.kind is ProbeKind.SCALING and one.tok_s is not None
    )
    return BenchmarkCell(
        node_id,
        model,
        alone,
        spread(one.read_tok_s for one in shown if one.probe.kind is ProbeKind.READING),
        spread(one.first_s for one in writing),
        spread(one.load_s for one in shown if one.probe.kind is ProbeKind.LOAD),
        tuple(scaling),
    )


def spread(values: Iterable[float | None]) -> Spread | None:
    """None where nothing was seen; nonsense is left out."""
    seen = sorted(value for value in values if value is not None and 0.0 < value < math.inf)
    if not seen:
        return None
    half = len(seen) // 2
    return Spread(seen[half] if len(seen) % 2 else (seen[half - 1] + seen[half]) / 2, seen[0], seen[-1], len(seen))


# --- whether two runs differ ---


@dataclass(frozen=True, slots=True)
class Difference:
    """`change` is relative, positive where the second run is better; `plus_minus` is twice its standard error."""

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
    """Of what both runs measured. `change` is that of generation speed (of everything where no generation was measured)."""

    differences: tuple[Difference, ...]
    verdict: str
    change: float = 0.0
    plus_minus: float = 0.0


def compare(
    first: Iterable[BenchmarkCell], second: Iterable[BenchmarkCell], changed: Mapping[NodeId, str]
) -> Comparison:
    """`changed`: in words, what became another on a node between the two ("engine 0.31.2 -> 0.32.15")."""
    known = {(cell.node_id, cell.model): cell for cell in first}
    found = [
        difference
        for cell in second
        if (before := known.get((cell.node_id, cell.model))) is not None
        for difference in _differences(before, cell)
    ]
    if not found:
        return Comparison((), "The two runs have no node and model in common.")
    counted = [one for one in found if one.measure == "decode_tok_s"] or found
    change, plus_minus = _pooled(counted)
    return Comparison(tuple(found), _verdict(change, plus_minus, found, changed), change, plus_minus)


def _differences(before: BenchmarkCell, after: BenchmarkCell) -> Iterator[Difference]:
    figures = {name: seen for name, seen, _ in before.figures()}
    for name, seen, is_more_better in after.figures():
        was = figures.get(name)
        if was is None:
            continue
        log = math.log(seen.median / was.median) * (1 if is_more_better else -1)
        change = math.exp(log) - 1.0
        doubt = 2.0 * math.hypot(_log_error(was), _log_error(seen))
        yield Difference(
            after.node_id,
            after.model,
            name,
            was.median,
            seen.median,
            change,
            (1.0 + change) * math.expm1(min(doubt, 10.0)),
        )


def _log_error(seen: Spread) -> float:
    """Standard error of the logarithm of its median; the median of a few is a quarter less sure than their mean."""
    if seen.count < 2:
        return ALONE_DOUBT
    d2 = _D2[min(seen.count, len(_D2) - 1)]
    return max(0.005, 1.25 * math.log(seen.high / seen.low) / d2 / math.sqrt(seen.count))


def _pooled(found: Sequence[Difference]) -> tuple[float, float]:
    """The geometric mean of the changes, and its doubt: what each is unsure of, or what they differ by, whichever is more."""
    logs = [math.log1p(max(one.change, -0.999)) for one in found]
    mean = sum(logs) / len(logs)
    own = math.sqrt(sum(math.log1p(one.plus_minus / (1.0 + one.change)) ** 2 for one in found)) / len(found)
    apart = (
        2.0 * math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1) / len(logs)) if len(logs) > 1 else 0.0
    )
    change = math.expm1(mean)
    return change, (1.0 + change) * math.expm1(min(max(own, apart), 10.0))


def _verdict(change: float, plus_minus: float, found: Sequence[Difference], changed: Mapping[NodeId, str]) -> str:
    if abs(change) <= max(plus_minus, CLEAR_MIN):
        told = f"No difference beyond chance ({100 * change:+.0f} %, +-{100 * plus_minus:.0f} %)"
    else:
        told = f"{abs(100 * change):.0f} % {'faster' if change > 0 else 'slower'}, +-{100 * plus_minus:.0f} %"
    clear = [one for one in found if one.is_clear]
    nodes = sorted({one.node_id for one in clear})
    if clear:
        most = max(clear, key=lambda one: abs(math.log1p(max(one.change, -0.999))))
        told += f"; most of all {most.measure.partition('_')[0]} of {most.model} on {most.node_id} ({100 * most.change:+.0f} %)"
    likely = [f"{changed[node_id]} on {node_id}" for node_id in nodes if node_id in changed]
    return f"{told}; likely {', '.join(likely[:3])}." if likely else f"{told}."
