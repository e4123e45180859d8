"""How fast each model really is on each node, learnt from finished answers. Chooses nobody and knows no queue.

Every quantity is kept as the logarithm of its ratio to the prior, moved towards each new sample. A pair of node and
model that was never seen starts from what is known of the node with other models and of the model on other nodes.
Only samples taken while the node did nothing else teach speeds; those taken in company of the same model teach the
batch slope. It holds also the time in which streams stand still because others' prompts are read: that is what company
costs in life, and plans made without it pack too many onto the fastest node (measured: 3 to 6 % worse).
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
"""The kinds of memories: of a model on a node, of a node with all its models, of a model on all its nodes."""
KINDS = (PAIR, NODE, MODEL)
LOG_MAX = 12.0
"""No machine is e^12 times faster or slower than its kind: such a memory is damaged."""
SAMPLES_MAX = 1e12

PAIRS_MAX = 4096
NODES_MAX = 2048
MODELS_MAX = 2048
GAIN_MIN = 0.25
"""Weight of a new sample once many were seen: a throttling laptop is believed after about four answers."""
SURPRISE_MAX = 1.2
"""A single sample may move a belief by at most this factor's logarithm (e^1.2 = 3.3), so that one odd answer does little."""
TOKENS_MIN = 8
"""Fewer tokens say more about overheads than about speed."""
CACHE_SUSPICION = 4.0
"""A prompt read so many times faster than believed was probably not read: the engine had it in its cache."""
SHARED_GAIN_MIN = 0.1
WARM_SHARE = 0.5
"""A file that is probably still in the page cache loads in this share of the time, until it was seen otherwise."""
SLOPE_MAX = 1.5
SLOPE_GAIN_MIN = 0.1


@dataclass(slots=True)
class LearnedRatio:
    """A learnt ratio to a prior, in logarithms."""

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
    """A node's or a model's part in the ratios of its pairs, in logarithms."""

    log: float = 0.0
    samples: int = 0

    @property
    def gain(self) -> float:
        """Half of a surprise is a newcomer's, less with every sample: the rest is the other part's, or chance."""
        return max(SHARED_GAIN_MIN, 0.5 / (1.0 + self.samples / 4.0))

    def move(self, surprise: float) -> None:
        self.log += self.gain * surprise
        self.samples += 1


@dataclass(slots=True)
class _Learnt:
    prompt: LearnedRatio = field(default_factory=LearnedRatio)
    step: LearnedRatio = field(default_factory=LearnedRatio)
    slope: float | None = None
    slope_samples: int = 0


@dataclass(slots=True)
class _Shared:
    """What a node shows with all its models, or a model on all its nodes. Loads are the node's alone: a disk's affair."""

    prompt: _Effect = field(default_factory=_Effect)
    step: _Effect = field(default_factory=_Effect)
    load: LearnedRatio = field(default_factory=LearnedRatio)
    reload: LearnedRatio = field(default_factory=LearnedRatio)


@dataclass(frozen=True, slots=True)
class SpeedSample:
    """What one finished answer showed. `streams` is how many decoded together on average, 1.0 when it was alone and 0.0 when
    other models computed beside it: then it teaches no speed.

    `uncached_tokens` is what was really read of the prompt; None where unknown. `load_s` is None where nothing was loaded;
    `is_load_pure` when nothing stood before it in the engine's line, else it is only a most. `was_warm`: the file had
    been read lately.
    """

    uncached_tokens: int | None
    prefill_s: float | None
    decoded_tokens: int
    decode_s: float | None
    load_s: float | None
    streams: float
    is_load_pure: bool = True
    was_warm: bool = False


LEARNT_SAMPLES = 3


class LearnedSpeeds:
    def __init__(self) -> None:
        self._pairs = BoundedDict[tuple[NodeId, ModelName], _Learnt](PAIRS_MAX)
        self._nodes = BoundedDict[NodeId, _Shared](NODES_MAX)
        self._models = BoundedDict[ModelName, _Shared](MODELS_MAX)
        self._speeds: dict[tuple[NodeId, ModelName], tuple[ModelInfo, Speed]] = {}
        self._changes = Changes()

    def speed(self, node: Node, model: ModelName) -> Speed:
        """The present belief; remembered until something is learnt or the node reports anew."""
        card = node.report.models[model]
        key = (node.id, model)
        known = self._speeds.get(key)
        if known is not None and known[0] is card:
            return known[1]
        speed = self._believe(node, card, model)
        if len(self._speeds) > PAIRS_MAX:
            self._speeds.clear()
        self._speeds[key] = (card, speed)
        return speed

    def is_learned(self, node_id: NodeId, model: ModelName) -> bool:
        """Whether the prompt speed was measured here, several times: then a prediction may be held against the node."""
        learnt = self._pairs.get((node_id, model))
        return learnt is not None and learnt.prompt.samples >= LEARNT_SAMPLES

    def forget(self, node_id: NodeId) -> None:
        """Another boot may mean another engine or other settings: what was learnt counts as one sample only."""
        for key, learnt in self._pairs.items():
            if key[0] == node_id:
                learnt.prompt.samples = min(learnt.prompt.samples, 1)
                learnt.step.samples = min(learnt.step.samples, 1)

    def learn(self, node: Node, model: ModelName, sample: SpeedSample) -> None:
        card = node.report.models.get(model)
        if card is None:
            return
        start = prior(node.report, card)
        of_node = _found(self._nodes, node.id)
        if sample.load_s is not None and sample.load_s > LOAD_OVERHEAD_S / 10:
            _learn_load(of_node, start, sample)
        if sample.streams >= 1.0:
            learnt = self._pair(node.id, model)
            if sample.streams == 1.0:
                self._learn_alone(start, learnt, of_node, _found(self._models, model), sample)
            else:
                self._learn_slope(start, learnt, sample)
            self._changes.note(PAIR, node.id, model)
            self._changes.note(MODEL, "", model)
        self._changes.note(NODE, node.id, "")
        self._speeds.pop((node.id, model), None)

    def changes(self) -> list[LearnedValue]:
        """What was learnt since this was last asked, for a store: pairs, nodes and models, each with logarithms of its ratios to
        the prior and how many samples stand behind them."""
        return [
            found
            for kind, subject, model in self._changes.take()
            if (found := self._memory(kind, subject, model)) is not None
        ]

    def _memory(self, kind: str, subject: str, model: str) -> LearnedValue | None:
        if kind == PAIR:
            learnt = self._pairs.get((NodeId(subject), ModelName(model)))
            if learnt is None:
                return None
            slope = {} if learnt.slope is None else {"slope": learnt.slope}
            return LearnedValue(
                kind, subject, model, {**_told("prompt", learnt.prompt), **_told("step", learnt.step), **slope}
            )
        shared = self._nodes.get(NodeId(subject)) if kind == NODE else self._models.get(ModelName(model))
        if shared is None:
            return None
        parts = ("prompt", shared.prompt), ("step", shared.step), ("load", shared.load), ("reload", shared.reload)
        return LearnedValue(
            kind, subject, model, {key: value for name, part in parts for key, value in _told(name, part).items()}
        )

    def recall(self, memory: LearnedValue) -> None:
        """Believes what an earlier process learnt. Of a pair as if it were one sample: the machine may have changed since.

        Raises `ValueError` for numbers that no learning can have led to; then nothing changes.
        """
        if memory.kind == PAIR:
            self._recall_pair(self._pair(NodeId(memory.subject), ModelName(memory.model)), memory)
        elif memory.kind == NODE:
            _recall_shared(_found(self._nodes, NodeId(memory.subject)), memory)
        else:
            _recall_shared(_found(self._models, ModelName(memory.model)), memory)
        self._speeds.clear()

    @staticmethod
    def _recall_pair(learnt: _Learnt, memory: LearnedValue) -> None:
        prompt, step = _recalled(memory, "prompt"), _recalled(memory, "step")
        slope = memory.number("slope", 0.0, SLOPE_MAX)
        if prompt[1] and not learnt.prompt.samples:
            learnt.prompt = LearnedRatio(prompt[0], 1)
        if step[1] and not learnt.step.samples:
            learnt.step = LearnedRatio(step[0], 1)
        learnt.slope = slope if learnt.slope is None else learnt.slope

    @staticmethod
    def _learn_alone(start: Speed, learnt: _Learnt, of_node: _Shared, of_model: _Shared, sample: SpeedSample) -> None:
        tokens = sample.uncached_tokens
        if tokens is not None and tokens >= TOKENS_MIN and sample.prefill_s:
            ratio = tokens / sample.prefill_s / start.prompt_tokens_per_s
            if not learnt.prompt.samples or ratio < CACHE_SUSPICION * learnt.prompt.factor:
                learnt.prompt.learn(ratio)
                _learn_shared(of_node.prompt, of_model.prompt, ratio)
        if sample.decoded_tokens >= TOKENS_MIN and sample.decode_s:
            ratio = sample.decode_s / sample.decoded_tokens / start.step_s
            learnt.step.learn(ratio)
            _learn_shared(of_node.step, of_model.step, ratio)

    @staticmethod
    def _learn_slope(start: Speed, learnt: _Learnt, sample: SpeedSample) -> None:
        if not learnt.step.samples or sample.decoded_tokens < TOKENS_MIN or not sample.decode_s or sample.streams < 1.5:
            return
        alone_s = start.step_s * learnt.step.factor
        slope = (sample.decode_s / sample.decoded_tokens / alone_s - 1.0) / (sample.streams - 1.0)
        known = learnt.slope if learnt.slope is not None else start.batch_slope
        learnt.slope_samples += 1
        gain = max(SLOPE_GAIN_MIN, 1.0 / (learnt.slope_samples + 1))
        learnt.slope = known + gain * (max(0.0, min(SLOPE_MAX, slope)) - known)

    def _believe(self, node: Node, card: ModelInfo, model: ModelName) -> Speed:
        start = prior(node.report, card)
        learnt, of_node, of_model = self._pairs.get((node.id, model)), self._nodes.get(node.id), self._models.get(model)
        prompt = learnt.prompt.factor if learnt is not None and learnt.prompt.samples else 0.0
        if not prompt:
            nodes_part = of_node.prompt if of_node is not None else None
            prompt = _unseen(
                nodes_part, of_model.prompt if of_model is not None else None, [n.prompt for n in self._nodes.values()]
            )
        step = learnt.step.factor if learnt is not None and learnt.step.samples else 0.0
        if not step:
            nodes_part = of_node.step if of_node is not None else None
            step = _unseen(
                nodes_part, of_model.step if of_model is not None else None, [n.step for n in self._nodes.values()]
            )
        slope = learnt.slope if learnt is not None and learnt.slope is not None else start.batch_slope
        load_s = start.load_s * _load_factor(of_node, model in node.loaded_until or model in node.loaded)
        cold_load_s = start.load_s * _load_factor(of_node, False)
        return Speed(start.prompt_tokens_per_s * prompt, start.step_s * step, slope, load_s, max(load_s, cold_load_s))

    def _pair(self, node_id: NodeId, model: ModelName) -> _Learnt:
        key = (node_id, model)
        found = self._pairs.get(key)
        if found is None:
            found = self._pairs[key] = _Learnt()
        return found


def _told(name: str, part: LearnedRatio | _Effect) -> dict[str, float]:
    return {f"{name}_log": part.log, f"{name}_samples": part.samples} if part.samples else {}


def _recalled(memory: LearnedValue, name: str) -> tuple[float, int]:
    """The logarithm and its samples; 0 and 0 where nothing was learnt. Raises `ValueError`."""
    if f"{name}_log" not in memory.numbers:
        return 0.0, 0
    log, samples = memory.number(f"{name}_log", -LOG_MAX, LOG_MAX), memory.number(f"{name}_samples", 1, SAMPLES_MAX)
    if log is None or samples is None:
        raise ValueError(f"{name} is out of bounds")
    return log, int(samples)


def _recall_shared(shared: _Shared, memory: LearnedValue) -> None:
    """What this process has learnt already stands. Raises `ValueError`."""
    ratios = [_recalled(memory, name) for name in ("prompt", "step", "load", "reload")]
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
    belief = of_node.reload if sample.was_warm else of_node.load
    if sample.is_load_pure or ratio < _load_factor(of_node, sample.was_warm):
        belief.learn(ratio)


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


def _unseen(of_node: _Effect | None, of_model: _Effect | None, nodes: Sequence[_Effect]) -> float:
    """The factor of a pair that was never measured. A node that was never measured at all is taken as the average one: what
    models show is only known relative to the nodes on which they showed it."""
    if of_node is None or not of_node.samples:
        known = [one.log for one in nodes if one.samples]
        nodes_part = sum(known) / len(known) if known else 0.0
    else:
        nodes_part = of_node.log
    return math.exp(nodes_part + (of_model.log if of_model is not None else 0.0))


def _found(known: BoundedDict[Key, _Shared], key: Key) -> _Shared:
    found = known.get(key)
    if found is None:
        found = known[key] = _Shared()
    return found
