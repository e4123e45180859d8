"""Learns how fast each model is on each node, from completed answers.

Every quantity is stored as the logarithm of its ratio to the prior, and moves towards each new sample. A new pair of
node and model starts from what is known about the node with other models and about the model on other nodes. Speeds are
learned only from samples during which the node did nothing else; samples with other streams of the same model teach the
batch slope. The slope includes the time in which streams stall during the prefill of others: without it too many
requests go to the fastest node (measured: 3 to 6 % worse).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from herd.bounded import BoundedDict
from herd.core.estimates.hardware_priors import LOAD_OVERHEAD_S, Speed, prior
from herd.core.state.fleet import ModelInfo, ModelName, Node, NodeId
from herd.core.state.learned_values import Changes, LearnedValue

Key = TypeVar("Key", NodeId, ModelName)

PAIR, NODE, MODEL = "pair", "node", "model"
"""The kinds of learned values: of a model on a node, of a node with all its models, of a model on all its nodes."""
KINDS = (PAIR, NODE, MODEL)
LOG_MAX = 12.0
"""No machine is e^12 times faster or slower than its class: such a stored value is invalid."""
SAMPLES_MAX = 1e12

PAIRS_MAX = 4096
SPEEDS_CACHED_MAX = 65536
NODES_MAX = 2048
MODELS_MAX = 2048
GAIN_MIN = 0.25
"""Least weight of a new sample: a laptop that starts to throttle is recognized after about four answers."""
SURPRISE_MAX = 1.2
"""Limit of the logarithm by which one sample differs from the estimate (e^1.2 = 3.3), so that one outlier changes
little."""
TOKENS_MIN = 8
"""With fewer tokens the overhead dominates, and nothing is learned."""
CACHED_IF_FASTER_BY = 4.0
"""A prefill that is this many times faster than expected was probably answered from the engine's cache."""
SHARED_GAIN_MIN = 0.1
WARM_SHARE = 0.5
"""Share of the load time if the file is probably still in the page cache, until it was measured."""
SLOPE_MAX = 1.5
SLOPE_GAIN_MIN = 0.1


@dataclass(slots=True)
class LearnedRatio:
    """The logarithm of a learned ratio to the prior."""

    log: float = 0.0
    samples: int = 0

    def learn(self, ratio: float) -> None:
        if not (0.0 < ratio < math.inf):
            return
        self.samples += 1
        gain = max(GAIN_MIN, 1.0 / self.samples)
        surprise = math.log(ratio) - self.log
        if self.samples > 1:
            surprise = max(-SURPRISE_MAX, min(SURPRISE_MAX, surprise))
        self.log += gain * surprise

    @property
    def factor(self) -> float:
        return math.exp(self.log)


@dataclass(slots=True)
class _Effect:
    """The effect of a node on the ratios of all its models, or of a model on the ratios of all its nodes, as a
    logarithm."""

    log: float = 0.0
    samples: int = 0

    @property
    def gain(self) -> float:
        """The share of a new difference that is learned: a half at first, less with every sample. The rest is due to
        the other effect, or to chance."""
        return max(SHARED_GAIN_MIN, 0.5 / (1.0 + self.samples / 4.0))

    def move(self, surprise: float) -> None:
        self.log += self.gain * surprise
        self.samples += 1


@dataclass(slots=True)
class _LearnedPair:
    prompt: LearnedRatio = field(default_factory=LearnedRatio)
    step: LearnedRatio = field(default_factory=LearnedRatio)
    slope: float | None = None
    slope_samples: int = 0


@dataclass(slots=True)
class _Shared:
    """Ratios of a node over all its models, or of a model over all its nodes. Loads depend on the node's disk only."""

    prompt: _Effect = field(default_factory=_Effect)
    step: _Effect = field(default_factory=_Effect)
    load: LearnedRatio = field(default_factory=LearnedRatio)
    reload: LearnedRatio = field(default_factory=LearnedRatio)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSample:
    """Measurements of one completed answer. `streams` is the mean number of streams: 1.0 for a single one, 0.0 if other
    models ran on the node meanwhile; then no speed is learned.

    `uncached_tokens`: prompt tokens that were processed; None if unknown. `load_s`: None if the model was loaded
    already; `is_load_exact`: no other request was ahead in the engine's queue, else `load_s` is an upper bound.
    `was_warm`: the file was probably in the page cache.
    """

    uncached_tokens: int | None
    prefill_s: float | None
    decoded_tokens: int
    decode_s: float | None
    load_s: float | None
    streams: float
    is_load_exact: bool = True
    was_warm: bool = False


LEARNED_SAMPLES = 3
"""Samples from which on the prompt speed of a pair counts as known."""


class LearnedSpeeds:
    def __init__(self) -> None:
        self._pairs = BoundedDict[tuple[NodeId, ModelName], _LearnedPair](PAIRS_MAX)
        self._nodes = BoundedDict[NodeId, _Shared](NODES_MAX)
        self._models = BoundedDict[ModelName, _Shared](MODELS_MAX)
        self._speeds: dict[tuple[NodeId, ModelName], tuple[ModelInfo, Speed]] = {}
        self._changes = Changes()
        self._means: tuple[float, float] | None = None
        self.epoch = 0
        """Increases when all cached estimates become invalid at once."""

    def speed(self, node: Node, model: ModelName) -> Speed:
        """The present estimate; cached until something is learned or the node sends a new report."""
        model_info = node.report.models[model]
        key = (node.id, model)
        known = self._speeds.get(key)
        if known is not None and known[0] is model_info:
            return known[1]
        speed = self._estimate(node, model_info, model)
        if len(self._speeds) > SPEEDS_CACHED_MAX:
            self._forget_estimates()
        self._speeds[key] = (model_info, speed)
        return speed

    def is_learned(self, node_id: NodeId, model: ModelName) -> bool:
        """Whether the prompt speed was measured here several times, so that the node's timeout may follow from a
        prediction."""
        learned = self._pairs.get((node_id, model))
        return learned is not None and learned.prompt.samples >= LEARNED_SAMPLES

    def is_step_learned(self, node_id: NodeId, model: ModelName) -> bool:
        """Whether the time for a token was measured here several times."""
        learned = self._pairs.get((node_id, model))
        return learned is not None and learned.step.samples >= LEARNED_SAMPLES

    def forget(self, node_id: NodeId) -> None:
        """Counts what was learned as one sample: a new boot may have another engine or other settings."""
        for key, learned in self._pairs.items():
            if key[0] == node_id:
                learned.prompt.samples = min(learned.prompt.samples, 1)
                learned.step.samples = min(learned.step.samples, 1)

    def learn(self, node: Node, model: ModelName, sample: SpeedSample) -> None:
        model_info = node.report.models.get(model)
        if model_info is None:
            return
        start = prior(node.report, model_info)
        of_node = _get_or_create(self._nodes, node.id)
        self._means = None
        if sample.load_s is not None and sample.load_s > LOAD_OVERHEAD_S / 10:
            _learn_load(of_node, start, sample)
        if sample.streams >= 1.0:
            learned = self._pair(node.id, model)
            if sample.streams == 1.0:
                self._learn_alone(start, learned, of_node, _get_or_create(self._models, model), sample)
            else:
                self._learn_slope(start, learned, sample)
            self._changes.note(PAIR, node.id, model)
            self._changes.note(MODEL, "", model)
        self._changes.note(NODE, node.id, "")
        self._speeds.pop((node.id, model), None)

    def changes(self) -> list[LearnedValue]:
        """Values that changed since the last call: of pairs, nodes and models, each with logarithms of its ratios to
        the prior and the numbers of samples."""
        return [
            found
            for kind, subject, model in self._changes.take()
            if (found := self._learned_value(kind, subject, model)) is not None
        ]

    def _learned_value(self, kind: str, subject: str, model: str) -> LearnedValue | None:
        if kind == PAIR:
            learned = self._pairs.get((NodeId(subject), ModelName(model)))
            if learned is None:
                return None
            slope = {} if learned.slope is None else {"slope": learned.slope}
            return LearnedValue(
                kind, subject, model, {**_numbers("prompt", learned.prompt), **_numbers("step", learned.step), **slope}
            )
        shared = self._nodes.get(NodeId(subject)) if kind == NODE else self._models.get(ModelName(model))
        if shared is None:
            return None
        parts = ("prompt", shared.prompt), ("step", shared.step), ("load", shared.load), ("reload", shared.reload)
        return LearnedValue(
            kind, subject, model, {key: value for name, part in parts for key, value in _numbers(name, part).items()}
        )

    def restore(self, value: LearnedValue) -> None:
        """Restores a value that an earlier process learned. A pair counts as one sample: the machine may have changed
        since then.

        Raises `ValueError` for an invalid value, and changes nothing.
        """
        if value.kind == PAIR:
            self._restore_pair(self._pair(NodeId(value.subject), ModelName(value.model)), value)
        elif value.kind == NODE:
            _restore_shared(_get_or_create(self._nodes, NodeId(value.subject)), value)
        else:
            _restore_shared(_get_or_create(self._models, ModelName(value.model)), value)
        self._means = None
        self._forget_estimates()

    def _forget_estimates(self) -> None:
        self._speeds.clear()
        self.epoch += 1

    @staticmethod
    def _restore_pair(learned: _LearnedPair, value: LearnedValue) -> None:
        prompt, step = _stored_ratio(value, "prompt"), _stored_ratio(value, "step")
        slope = value.number("slope", 0.0, SLOPE_MAX)
        if prompt[1] and not learned.prompt.samples:
            learned.prompt = LearnedRatio(prompt[0], 1)
        if step[1] and not learned.step.samples:
            learned.step = LearnedRatio(step[0], 1)
        learned.slope = slope if learned.slope is None else learned.slope

    @staticmethod
    def _learn_alone(
        start: Speed, learned: _LearnedPair, of_node: _Shared, of_model: _Shared, sample: SpeedSample
    ) -> None:
        tokens = sample.uncached_tokens
        if tokens is not None and tokens >= TOKENS_MIN and sample.prefill_s:
            ratio = tokens / sample.prefill_s / start.prompt_tokens_per_s
            if not learned.prompt.samples or ratio < CACHED_IF_FASTER_BY * learned.prompt.factor:
                learned.prompt.learn(ratio)
                _learn_shared(of_node.prompt, of_model.prompt, ratio)
        if sample.decoded_tokens >= TOKENS_MIN and sample.decode_s:
            ratio = sample.decode_s / sample.decoded_tokens / start.step_s
            learned.step.learn(ratio)
            _learn_shared(of_node.step, of_model.step, ratio)

    @staticmethod
    def _learn_slope(start: Speed, learned: _LearnedPair, sample: SpeedSample) -> None:
        if (
            not learned.step.samples
            or sample.decoded_tokens < TOKENS_MIN
            or not sample.decode_s
            or sample.streams < 1.5
        ):
            return
        alone_s = start.step_s * learned.step.factor
        slope = (sample.decode_s / sample.decoded_tokens / alone_s - 1.0) / (sample.streams - 1.0)
        known = learned.slope if learned.slope is not None else start.batch_slope
        learned.slope_samples += 1
        gain = max(SLOPE_GAIN_MIN, 1.0 / (learned.slope_samples + 1))
        learned.slope = known + gain * (max(0.0, min(SLOPE_MAX, slope)) - known)

    def _estimate(self, node: Node, model_info: ModelInfo, model: ModelName) -> Speed:
        start = prior(node.report, model_info)
        learned, of_node, of_model = (
            self._pairs.get((node.id, model)),
            self._nodes.get(node.id),
            self._models.get(model),
        )
        prompt = learned.prompt.factor if learned is not None and learned.prompt.samples else 0.0
        if not prompt:
            node_effect = of_node.prompt if of_node is not None else None
            model_effect = of_model.prompt if of_model is not None else None
            prompt = _factor_without_samples(node_effect, model_effect, self._mean_effects()[0])
        step = learned.step.factor if learned is not None and learned.step.samples else 0.0
        if not step:
            node_effect = of_node.step if of_node is not None else None
            model_effect = of_model.step if of_model is not None else None
            step = _factor_without_samples(node_effect, model_effect, self._mean_effects()[1])
        slope = learned.slope if learned is not None and learned.slope is not None else start.batch_slope
        load_s = start.load_s * _load_factor(of_node, model in node.unloaded_at or model in node.loaded)
        cold_load_s = start.load_s * _load_factor(of_node, False)
        return Speed(start.prompt_tokens_per_s * prompt, start.step_s * step, slope, load_s, max(load_s, cold_load_s))

    def _mean_effects(self) -> tuple[float, float]:
        """The effects of an average node on prompts and on decoding steps; computed once until something is learned."""
        if self._means is None:
            nodes = self._nodes.values()
            self._means = _mean([node.prompt for node in nodes]), _mean([node.step for node in nodes])
        return self._means

    def _pair(self, node_id: NodeId, model: ModelName) -> _LearnedPair:
        key = (node_id, model)
        found = self._pairs.get(key)
        if found is None:
            found = self._pairs[key] = _LearnedPair()
        return found


def _numbers(name: str, part: LearnedRatio | _Effect) -> dict[str, float]:
    return {f"{name}_log": part.log, f"{name}_samples": part.samples} if part.samples else {}


def _stored_ratio(value: LearnedValue, name: str) -> tuple[float, int]:
    """The logarithm and its number of samples; 0 and 0 if nothing was learned. Raises `ValueError`."""
    if f"{name}_log" not in value.numbers:
        return 0.0, 0
    log, samples = value.number(f"{name}_log", -LOG_MAX, LOG_MAX), value.number(f"{name}_samples", 1, SAMPLES_MAX)
    if log is None or samples is None:
        raise ValueError(f"{name} is out of bounds")
    return log, int(samples)


def _restore_shared(shared: _Shared, value: LearnedValue) -> None:
    """Keeps what this process has learned already. Raises `ValueError`."""
    ratios = [_stored_ratio(value, name) for name in ("prompt", "step", "load", "reload")]
    if not shared.prompt.samples:
        shared.prompt = _Effect(*ratios[0])
    if not shared.step.samples:
        shared.step = _Effect(*ratios[1])
    if not shared.load.samples:
        shared.load = LearnedRatio(ratios[2][0], min(1, ratios[2][1]))
    if not shared.reload.samples:
        shared.reload = LearnedRatio(ratios[3][0], min(1, ratios[3][1]))


def _learn_load(of_node: _Shared, start: Speed, sample: SpeedSample) -> None:
    assert sample.load_s is not None
    ratio = sample.load_s / start.load_s
    ratios = of_node.reload if sample.was_warm else of_node.load
    if sample.is_load_exact or ratio < _load_factor(of_node, sample.was_warm):
        ratios.learn(ratio)


def _load_factor(of_node: _Shared | None, was_warm: bool) -> float:
    if of_node is None:
        return WARM_SHARE if was_warm else 1.0
    if was_warm and of_node.reload.samples:
        return of_node.reload.factor
    cold = of_node.load.factor if of_node.load.samples else 1.0
    return cold * WARM_SHARE if was_warm else cold


def _learn_shared(of_node: _Effect, of_model: _Effect, ratio: float) -> None:
    if not (0.0 < ratio < math.inf):
        return
    surprise = max(-2 * SURPRISE_MAX, min(2 * SURPRISE_MAX, math.log(ratio) - of_node.log - of_model.log))
    of_node.move(surprise)
    of_model.move(surprise)


def _factor_without_samples(of_node: _Effect | None, of_model: _Effect | None, mean_log: float) -> float:
    """The factor of a pair without measurements. A node without any measurement counts as an average node, because the
    effect of a model is known only relative to the nodes on which it was measured."""
    node_log = of_node.log if of_node is not None and of_node.samples else mean_log
    return math.exp(node_log + (of_model.log if of_model is not None else 0.0))


def _mean(effects: Sequence[_Effect]) -> float:
    known = [effect.log for effect in effects if effect.samples]
    return sum(known) / len(known) if known else 0.0


def _get_or_create(known: BoundedDict[Key, _Shared], key: Key) -> _Shared:
    found = known.get(key)
    if found is None:
        found = known[key] = _Shared()
    return found
